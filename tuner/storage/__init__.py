"""Bytes that survive a crash: journal, atomic files, locks, Postgres.

It may import ``trainables``, ``cluster`` and ``tuner.errors``.
"""
