"""The same search as a user of other tools would write it, each a program of its own.

python -m benchmarks.peers.NAME TASK FOLDER

They train the trials of one ``Task`` and print what they did as the last line of their output.
"""
