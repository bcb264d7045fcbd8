"""Tracking never breaks the work: what it raises becomes one warning."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_log = logging.getLogger("mlflow_platform.client")
P = ParamSpec("P")
T = TypeVar("T")


class Guard:
    """Calls on behalf of a program that must not notice when they fail.

    The first failure is a warning, those after it are debug messages; `failures` counts them all. With
    `MLPLATFORM_STRICT=1` they are raised, as by the durable store.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.warned = False

    def call(self, what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What `function` returns; None when it fails."""
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - MLflow, its plugins and servers may raise anything
            self.failed(what, error)
            return None

    def failed(self, what: str, error: Exception) -> None:
        """Note a failure. Raises it again if that is wished for."""
        if os.environ.get("MLPLATFORM_STRICT") == "1":
            raise error
        self.failures += 1
        level = logging.DEBUG if self.warned else logging.WARNING
        self.warned = True
        _log.log(
            level,
            "not logged (%s): %s: %s; the program goes on, further failures are logged at level DEBUG",
            what,
            type(error).__name__,
            str(error).partition("\n")[0][:500],
        )
