"""The job file: read strictly, checked, frozen.

It may import ``trainables``, ``cluster`` and ``tuner.errors``.
"""
