"""Trains one trial: model, updates, epochs, checkpoints, and the Ray Tune trainable around them.

It may import the rest of ``trainables``.
"""
