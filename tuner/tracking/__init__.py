"""MLflow: runs, metrics and registered models. Only this package imports mlflow.

It may import ``jobs``, and what that may; not ``search``.
"""
