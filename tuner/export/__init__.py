"""A winner as a file or a registered model, and its reproduction.

It may import ``verdict``, ``execution`` and ``remote``, and what these may; not ``monitor``.
"""
