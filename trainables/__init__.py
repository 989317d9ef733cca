"""A training library: models, data sets, optimizer variants, schedules and the loop that trains one trial.

The package may import torch, NumPy and other third-party libraries, but neither ``cluster`` nor ``tuner``. Only the
module of the Ray trainable imports ray.
"""
