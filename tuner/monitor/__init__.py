"""Watches a job: progress, status, terminal, log, local web pages.

It may import ``verdict``, ``execution`` and ``remote``, and what these may; not ``export``.
"""
