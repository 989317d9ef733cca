"""The job file: this package reads it strictly, checks it and freezes it.

This package may import ``trainables``, ``cluster`` and ``tuner.errors``.
"""
