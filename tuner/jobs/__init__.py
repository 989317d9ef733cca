"""One job on disk: its request, its folder, its record.

It may import ``spec`` and ``storage``, and what these may.
"""
