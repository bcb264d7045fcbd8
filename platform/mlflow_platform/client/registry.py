"""The model registry behind a durable URI: called at once, not kept, not replayed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from mlflow.store.model_registry.abstract_store import AbstractStore

from mlflow_platform.client.server import Server


class DurableRegistry(AbstractStore):  # type: ignore[misc] # MLflow has no types
    """Every call goes to the server, at most ten seconds long, after what this process logged has got there:
    a model version is made from a run or model that must exist. Raises when the server is away."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server


def _pass_on(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(AbstractStore, name))
    def passed_on(self: DurableRegistry, *args: Any, **kwargs: Any) -> Any:
        return self._server.call(name, args, kwargs, registry=True)

    return passed_on


for _name in dir(AbstractStore):
    if not _name.startswith(("__", "_abc")) and callable(getattr(AbstractStore, _name)):
        setattr(DurableRegistry, _name, _pass_on(_name))
