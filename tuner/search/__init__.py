"""Decides: which setting is tried next, which trial is stopped early, who won. Only this package imports optuna.

It may import ``jobs``, and what that may; not ``tracking``.
"""
