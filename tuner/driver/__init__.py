"""Runs one job from its preflight to its verdict, under a supervisor.

It may import every package of ``tuner`` but ``cli`` and ``api``.
"""
