"""Where a program logs to, checked before MLflow is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from mlflow_platform.errors import BadInput

#: The variable of each setting. The first six are MLflow's own, or of the programs that it grew up with.
VARIABLES = {
    "tracking_uri": "MLFLOW_TRACKING_URI",
    "experiment_name": "MLFLOW_EXPERIMENT_NAME",
    "artifact_location": "MLFLOW_ARTIFACT_LOCATION",
    "registry_uri": "MLFLOW_REGISTRY_URI",
    "username": "MLFLOW_TRACKING_USERNAME",
    "password": "MLFLOW_TRACKING_PASSWORD",
    "tracking": "MLFLOW_ENABLE_TRACKING",
    "tracing": "MLFLOW_ENABLE_TRACING",
}
_ON, _OFF = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
#: What MLflow 3.17.2 and this package open (mlflow/tracking/_tracking_service/utils.py).
_STORES = {"http", "https", "file", "sqlite", "postgresql", "mysql", "mssql", "databricks", "uc"}
_LOCATIONS = {
    "",
    "file",
    "s3",
    "gs",
    "wasbs",
    "abfss",
    "dbfs",
    "hdfs",
    "ftp",
    "sftp",
    "mlflow-artifacts",
    "r2",
}
#: mlflow/utils/validation.py: MAX_EXPERIMENT_NAME_LENGTH
_LONGEST_NAME = 500


@dataclass(frozen=True, kw_only=True)
class MLflowConfig:
    """Settings of tracking and tracing; what is None is MLflow's own default.

    `from_environment` reads the variables of `VARIABLES`; an argument wins over its variable. `durable`
    puts `durable+` before a server's http address, so that logging waits for nothing (docs/client.md);
    databases and folders on this machine are written at once. Raises `BadInput`, naming the setting and
    the variable; a password is in no message and no `repr`.
    """

    tracking_uri: str | None = None
    experiment_name: str = "Default"
    artifact_location: str | None = None
    registry_uri: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tracking: bool = True
    tracing: bool = True
    durable: bool = True

    def __post_init__(self) -> None:
        for name in ("tracking_uri", "registry_uri"):
            self._check_uri(name, getattr(self, name), _STORES)
        self._check_uri("artifact_location", self.artifact_location, _LOCATIONS)
        name = self.experiment_name
        if not isinstance(name, str) or not name.strip() or len(name) > _LONGEST_NAME:
            self._refuse("experiment_name", f"is not a name of 1 to {_LONGEST_NAME} characters")
        if self.password is not None and not self.username:
            self._refuse("username", f"is missing, with {VARIABLES['password']} set")

    def _check_uri(self, name: str, uri: str | None, known: set[str]) -> None:
        if uri is None:
            return
        if not isinstance(uri, str) or not uri.strip() or re.search(r"\s", uri):
            self._refuse(name, "is empty or has blanks")
        scheme = uri.removeprefix("durable+").partition(":")[0] if ":" in uri else ""
        base = scheme.partition("+")[0].partition("-")[0] if scheme not in known else scheme
        if scheme and base not in known:
            self._refuse(
                name, f"has the unknown scheme {scheme!r}", f"known are {', '.join(sorted(known - {''}))}"
            )
        if base in ("http", "https") and not _host(uri):
            self._refuse(name, "names no host", "as in https://mlflow.example.com")

    def _refuse(self, name: str, what: str, remedy: str = "") -> None:
        raise BadInput(
            f"{name} {what}",
            remedy="; ".join(filter(None, [remedy, f"set {VARIABLES[name]} or the argument"])),
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, **given: object) -> Self:
        """The variables' settings, and above them those `given` that are not None."""
        found: dict[str, object] = {}
        for setting in fields(cls):
            value = environment.get(VARIABLES.get(setting.name, ""), "").strip()
            if value:
                switch = setting.name in ("tracking", "tracing")
                found[setting.name] = _switch(VARIABLES[setting.name], value) if switch else value
        known = {f.name for f in fields(cls)}
        for name, setting_given in given.items():
            if name not in known:
                raise BadInput(
                    f"there is no setting {name!r}", remedy=f"there are: {', '.join(sorted(known))}"
                )
            if setting_given is not None:
                found[name] = setting_given
        return cls(**found)  # type: ignore[arg-type] # __post_init__ checks what came from outside

    @property
    def uri(self) -> str | None:
        """The tracking URI as MLflow is to be given it."""
        uri = self.tracking_uri
        if uri and self.durable and uri.startswith(("http://", "https://")):
            return f"durable+{uri}"
        return uri

    def variables(self) -> dict[str, str]:
        """What MLflow, and the process that delivers, can only be told by the environment."""
        login = {VARIABLES["username"]: self.username, VARIABLES["password"]: self.password}
        return {name: value for name, value in login.items() if value}

    def location(self) -> str | None:
        """The artifact location of an experiment that is made; a folder as an absolute path."""
        if self.artifact_location and ":" not in self.artifact_location:
            return Path(self.artifact_location).absolute().as_uri()
        return self.artifact_location


def switched(variable: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a half is on: it is unless its variable says otherwise. Raises `BadInput`."""
    value = environment.get(variable, "").strip()
    return _switch(variable, value) if value else True


def _switch(variable: str, value: str) -> bool:
    if value.lower() in _ON | _OFF:
        return value.lower() in _ON
    raise BadInput(f"{variable}={value!r} is neither true nor false")


def _host(uri: str) -> str | None:
    try:
        return urlsplit(uri.removeprefix("durable+")).hostname
    except ValueError:
        return None
