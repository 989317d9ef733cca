"""Ray: the embedded Ray, the connection to a cluster, its jobs and its nodes. ``deploy`` sets a cluster up.

This package imports neither ``trainables`` nor ``tuner``.
"""
