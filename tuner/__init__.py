"""Hyper-parameter search that ends in a verdict: does a variant beat the baseline, and do we know it?"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tuner.api import Export, Service, Workspace, download, load_config

__all__ = ["Export", "Service", "Workspace", "__version__", "download", "load_config"]


def __getattr__(name: str) -> Any:
    """Load a public name from ``tuner.api`` when it is first used, so that ``import tuner`` stays light."""
    if name not in __all__:
        raise AttributeError(f"module 'tuner' has no attribute {name!r}")
    from tuner import api

    return getattr(api, name)
