"""Runs trials: dispatcher, Ray workers, simulator, capacity.

It may import ``search`` and ``tracking``, and what these may; not ``verdict`` and ``remote``.
"""
