"""Compares the arms: leaderboard, paired test, caveats.

It may import ``search`` and ``tracking``, and what these may; not ``execution`` and ``remote``.
"""
