"""The same search as a user of other tools would write it. Each peer is its own program.

python -m benchmarks.peers.NAME TASK FOLDER

A peer trains the trials of one ``Task``. Its last line of output is a summary of the training.
"""
