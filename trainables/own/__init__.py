"""The user's own optimizers and trainables: how they are loaded, checked and run.

It imports the other packages of ``trainables``, and nothing of ``tuner``.
"""
