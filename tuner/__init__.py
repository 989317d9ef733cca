"""Hyper-parameter search that ends in a verdict: does a variant beat the baseline, and do we know it?"""

__version__ = "0.1.0"
