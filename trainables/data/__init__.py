"""Data sets as uint8 arrays: each is read once, cached on disk and shared by all processes of a machine.

From the rest of ``trainables`` this package may import ``catalog``, ``errors`` and ``own_reader`` only; it imports
neither ``cluster`` nor ``tuner``. Two modules use torch: ``device`` imports it, and ``cifar10`` loads it while it reads
the download.
"""
