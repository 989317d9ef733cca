"""The models that trials train, one module per model.

A model may import torch and ``trainables.errors``; it imports neither ``cluster`` nor ``tuner``.
"""
