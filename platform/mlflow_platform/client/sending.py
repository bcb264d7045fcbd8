"""What every part of the durable store is built on: sending a record, and what becomes of an error."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

from mlflow.exceptions import MlflowException
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.utils.workspace_context import get_request_workspace

from mlflow_platform.client.courier import Courier, RecordTooLarge, SpoolFull
from mlflow_platform.client.segments import Position
from mlflow_platform.client.server import Server
from mlflow_platform.client.shadow import Experiments, Shadows
from mlflow_platform.client.spool import Record

#: Raise what MLflow raises for bad input, and when the spool is full.
STRICT = "MLPLATFORM_STRICT"

F = TypeVar("F", bound=Callable[..., Any])


def logs(method: F) -> F:
    """A method that logs: an error is a warning, unless strict."""

    @functools.wraps(method)
    def logging(self: Sender, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            if self.strict:
                raise
            self.courier.warn(f"{method.__name__} was not logged: {type(error).__name__}: {error}")
            return None

    return logging  # type: ignore[return-value] # it has the signature of what it wraps


class Sender(AbstractStore):  # type: ignore[misc] # MLflow has no types
    """A store that can append to a spool; `uri` is without `durable+`."""

    def __init__(self, uri: str, courier: Courier) -> None:
        super().__init__()
        self.courier = courier
        self.server = Server(uri, courier)
        self.strict = os.environ.get(STRICT, "").lower() in ("1", "true", "yes")
        self.shadows = Shadows(courier.spool)
        self.experiments = Experiments(courier.spool)
        #: What this process logged as artifacts: owner and path -> the copy in the spool.
        self.pending_artifacts: dict[str, str] = {}
        #: Where MLflow's file store keeps spans: it has no place for them of their own.
        self._spans_are_artifacts = uri.startswith("file:")

    def _send(self, op: str, **arguments: Any) -> Position | None:
        """Append a record; None where it was refused."""
        record: Record = {"op": op, **arguments}
        if workspace := get_request_workspace():
            record["w"] = workspace
        try:
            return self.courier.send(record)
        except (SpoolFull, RecordTooLarge) as error:
            if self.strict:
                raise MlflowException(f"{op} was not logged: {error}") from error
            self.courier.warn(f"the spool {self.courier.spool.root} takes no more records: {error}")
            return None

    @property
    def _root(self) -> str:
        """Where a server with proxied artifacts keeps them; what is logged goes where the server says."""
        return "mlflow-artifacts:" if self.server.remote else "mlruns"

    def _location(self, experiment_id: str) -> str:
        known = self.experiments.by_id(experiment_id)
        return known.artifact_location.rstrip("/") if known else f"{self._root}/{experiment_id}"
