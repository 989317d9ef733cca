"""Data sets as uint8 arrays: read once, cached, shared by every process of a machine.

Only reading CIFAR-10 imports torch, and only while it reads.
"""
