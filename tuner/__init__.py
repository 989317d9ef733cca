"""Hyper-parameter search that ends in a verdict: does a variant beat the baseline, and do we know it?"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tuner.api import (
        ClusterJob,
        Export,
        Job,
        LocalJob,
        Service,
        Spec,
        Verdict,
        Workspace,
        connect,
        download,
        load_config,
        open,
        run,
    )

__all__ = [
    "ClusterJob",
    "Export",
    "Job",
    "LocalJob",
    "Service",
    "Spec",
    "Verdict",
    "Workspace",
    "__version__",
    "connect",
    "download",
    "load_config",
    "open",
    "run",
]


def __getattr__(name: str) -> Any:
    """Load a public name from ``tuner.api`` when it is first used, so that ``import tuner`` stays light."""
    if name not in __all__:
        raise AttributeError(f"module 'tuner' has no attribute {name!r}")
    from tuner import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """The public names, for completion in a notebook."""
    return sorted(__all__)
