"""What the supervisor needs to know of a server: how to start it, when it is ready, how it stops."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mlflow_platform.local.processes import MARK

#: Variables of the user's shell that a server needs. Everything else stays out: an exported
#: MLFLOW_TRACKING_URI, AWS_PROFILE or PGHOST would change what the servers do.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "USER")


@dataclass(frozen=True, slots=True)
class Command:
    """A program to start. Secrets go into `environment`, never into `arguments`."""

    arguments: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str] = field(repr=False)
    user: int | None = None
    group: int | None = None


#: Runs a helper program to its end; its output goes to the log of that name. Raises `Fatal` when it fails.
RunToEnd = Callable[[Command, str], None]


class Service(Protocol):
    """One server process of the stack."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Services that must be ready before this one starts."""

    @property
    def stop_signal(self) -> signal.Signals: ...

    @property
    def stop_grace(self) -> float:
        """Seconds from `stop_signal` to SIGKILL."""

    def prepare(self, run: RunToEnd, say: Callable[[str], None]) -> Command:
        """Make what must exist before a start; safe to repeat. `say` reports a step that takes time."""

    def ready(self) -> bool:
        """One quick look at whether it serves."""

    def settle(self) -> None:
        """Make what can exist only once it serves; safe to repeat."""


def environment(stack_id: str, **more: str) -> dict[str, str]:
    """The environment of a server of this stack."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {"LANG": "C.UTF-8", **kept, MARK: stack_id, **more}
