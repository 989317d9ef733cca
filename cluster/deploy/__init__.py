"""Files that set the service up elsewhere: Kubernetes manifests, the offline bundle, scripts for the containers.

This package imports only the errors from the rest of ``cluster``.
"""
