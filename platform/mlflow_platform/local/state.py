"""What a stack remembers: settings that stay, and what runs now."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mlflow_platform.errors import Fatal
from mlflow_platform.local.folder import Folder, write_private
from mlflow_platform.local.processes import Process, belongs

Phase = Literal["starting", "running", "stopping", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Options:
    """How the servers run. `workspaces`: MLflow's workspaces are on. `webhooks_local`: webhooks may be
    plain http and point to private addresses."""

    workspaces: bool = False
    webhooks_local: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """What stays over restarts: `stack.json`."""

    id: str
    ports: Mapping[str, int]
    options: Options = Options()
    postgres_mode: str = ""
    """How Postgres runs, fixed when its data is made: see `postgres.MODES`."""

    @classmethod
    def new(cls, options: Options) -> Settings:
        return cls(id=secrets.token_hex(16), ports={}, options=options)


@dataclass(frozen=True, slots=True)
class Running:
    """One server process, as the supervisor knows it."""

    process: Process | None = None
    ready: bool = False
    restarts: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """What runs now: `state.json`."""

    phase: Phase = "stopped"
    step: str = ""
    """What a starting stack is busy with, for people."""
    problem: str = ""
    supervisor: Process | None = None
    processes: Mapping[str, Running] = field(default_factory=dict)


def read_settings(folder: Folder) -> Settings | None:
    """The settings; None where no stack was made yet. Raises `Fatal` if the file is damaged."""
    values = _read(folder.settings)
    if values is None:
        return None
    try:
        return Settings(
            id=str(values["id"]),
            ports={str(k): int(v) for k, v in values["ports"].items()},
            options=Options(**values["options"]),
            postgres_mode=str(values["postgres_mode"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder.settings) from error


def write_settings(folder: Folder, settings: Settings) -> None:
    write_private(folder.settings, json.dumps(asdict(settings), indent=2) + "\n")


def read_state(folder: Folder) -> State:
    """The supervisor's last word; an empty state if there is none, or none that can be read: what runs
    is then found by its mark."""
    try:
        values = _read(folder.state) or {}
        return State(
            phase=values.get("phase", "stopped"),
            step=values.get("step", ""),
            problem=values.get("problem", ""),
            supervisor=_process(values.get("supervisor")),
            processes={
                name: Running(_process(v["process"]), bool(v["ready"]), int(v["restarts"]), str(v["problem"]))
                for name, v in values.get("processes", {}).items()
            },
        )
    except (Fatal, KeyError, TypeError, ValueError, AttributeError):
        return State()


def write_state(folder: Folder, state: State) -> None:
    write_private(folder.state, json.dumps(asdict(state), indent=2) + "\n")


def is_ours(process: Process | None, settings: Settings, postgres_data: Path | None = None) -> bool:
    """Whether a recorded process still lives and is the stack's: a pid may have been given away."""
    return process is not None and process.alive and belongs(process.pid, settings.id, postgres_data)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path) from error
    if not isinstance(values, dict):
        raise _damaged(path)
    return values


def _process(value: Mapping[str, int] | None) -> Process | None:
    return None if value is None else Process(int(value["pid"]), int(value["started"]))


def _damaged(path: Path) -> Fatal:
    return Fatal(f"{path} cannot be read", remedy="put back a copy of it, or remove the folder to start anew")
