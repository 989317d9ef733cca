"""Ray: start one here or use a running cluster, submit jobs to it, ask its nodes; ``deploy`` sets a cluster up.

This package imports neither ``trainables`` nor ``tuner``.
"""
