"""A program's connection to MLflow: MLflow is imported and set up when something is logged first."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

from mlflow_platform.client.config import MLflowConfig
from mlflow_platform.client.guard import Guard
from mlflow_platform.errors import BadInput, PlatformError


@dataclass(frozen=True)
class Connection:
    """MLflow, imported and set up: its module, a client, and where runs and traces go."""

    mlflow: Any
    client: Any
    uri: str
    experiment_id: str

    def is_global(self) -> bool:
        """Whether MLflow's own functions log to the same place."""
        return bool(self.mlflow.get_tracking_uri() == self.uri)


class Session:
    """Opens the connection once, for as many threads as ask; failing that, warns once and stays shut.

    Without a configuration the environment's is taken, with the arguments laid over it; a mistake in it
    is a warning like every other failure. `tracking` and `tracing` say which half is on.
    """

    def __init__(
        self,
        config: MLflowConfig | None = None,
        *,
        tracking_uri: str | None = None,
        experiment_name: str | None = None,
    ) -> None:
        self.guard = Guard()
        if config is None:
            given: dict[str, Any] = {"tracking_uri": tracking_uri, "experiment_name": experiment_name}
            config = self.guard.call("settings", lambda: MLflowConfig.from_environment(**given))
        self.config = config or MLflowConfig(tracking=False, tracing=False)
        self.tracking, self.tracing = self.config.tracking, self.config.tracing
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._shut = not (self.tracking or self.tracing)

    def open(self) -> Connection | None:
        """The connection; None when there is none to be had."""
        if self._connection is None and not self._shut:
            with self._lock:
                if self._connection is None and not self._shut:
                    self._connection = self.guard.call("set-up", self._connect)
                    self._shut = self._connection is None
        return self._connection

    def need(self) -> Connection:
        """The connection, for what cannot do without. Raises `PlatformError`."""
        connection = self.open()
        if connection is None:
            raise BadInput(
                "tracking is off, or could not be set up",
                remedy="see the warning before this; MLFLOW_ENABLE_TRACKING must not be false",
            )
        return connection

    def _connect(self) -> Connection:
        os.environ.update(self.config.variables())
        import mlflow

        if self.config.uri:
            mlflow.set_tracking_uri(self.config.uri)
        if self.config.registry_uri:
            mlflow.set_registry_uri(self.config.registry_uri)
        client = mlflow.MlflowClient()
        experiment = self._experiment(client)
        mlflow.set_experiment(experiment_id=experiment)
        return Connection(mlflow, client, mlflow.get_tracking_uri(), experiment)

    def _experiment(self, client: Any) -> str:
        from mlflow.exceptions import MlflowException

        name = self.config.experiment_name
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=self.config.location()))
            except MlflowException:
                # Made by another program in between, or not to be made.
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise PlatformError(
                f"the experiment {name!r} is deleted", remedy="restore it, or choose another name"
            )
        return str(found.experiment_id)
