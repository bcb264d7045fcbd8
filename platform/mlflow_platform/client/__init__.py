"""Logging that never raises and never waits: calls are appended to a spool, one process delivers them.

`spool` keeps records on disk, `shipper` brings them to a tracking server, `store` is MLflow's tracking
store for the schemes `durable+...`. On it stand `MLflowConfig`, `MLflowTracker`, `AsyncMLflowTracker` and
`MLflowTracer`, which programs use. Nothing here imports mlflow before something is logged.
"""

from __future__ import annotations

import importlib
from typing import Any

#: What programs import from here, and where it is: MLflow asks for a store in this package, too, and that
#: is to load nothing else.
_PUBLIC = {
    "AgentRegistry": "agents",
    "AgentSettings": "agents",
    "AsyncMLflowTracker": "optimiser",
    "MLflowConfig": "config",
    "MLflowTracer": "tracer",
    "MLflowTracker": "tracker",
    "ResearchTracker": "research",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
