"""The local stack as a whole: start, stop, describe.

A stack is one folder. Several stacks live side by side, each in its own folder with its own ports.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlflow_platform.errors import BadInput, Fatal, PlatformError
from mlflow_platform.local import credentials, folder, logs, ports, state
from mlflow_platform.local.folder import Folder
from mlflow_platform.local.processes import MARK, OWNER, look, ours, stop_all, wait_gone
from mlflow_platform.local.state import Options, Settings, State

#: The servers in the order in which they start.
SERVERS = ("postgres", "s3", "mlflow")
PROCESSES = ("supervisor", *SERVERS)
_POLL = 0.05


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a stack's servers are and how to log in. `repr` shows no secret."""

    tracking_uri: str
    username: str
    password: str = field(repr=False)
    s3_endpoint: str
    s3_bucket: str
    s3_access_key: str = field(repr=False)
    s3_secret_key: str = field(repr=False)
    database_uri: str = field(repr=False)
    """SQLAlchemy URI of the tracking database, with its password."""
    auth_database_uri: str = field(repr=False)
    secrets: Path
    """Folder of the documents' secret values, `<name>/<key>`."""

    def environment(self) -> dict[str, str]:
        """Variables that point any MLflow client here."""
        return {
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "MLFLOW_TRACKING_USERNAME": self.username,
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process of a stack. `healthy`: it lives, and a server serves, as its own health check says."""

    name: str
    pid: int | None
    port: int | None
    healthy: bool
    restarts: int
    problem: str


@dataclass(frozen=True, slots=True)
class Status:
    """What runs of a stack."""

    data: Path
    exists: bool
    phase: str
    problem: str
    uri: str | None
    processes: tuple[ProcessStatus, ...]

    @property
    def healthy(self) -> bool:
        return self.phase == "running" and all(p.healthy for p in self.processes)


class Stack:
    """The stack in one data folder; see `folder.find` for which folder a command means."""

    def __init__(self, data: Path) -> None:
        if not sys.platform.startswith("linux"):
            raise BadInput(
                f"the local stack runs on Linux, not on {sys.platform}",
                remedy="use a Linux machine or container, or deploy to Kubernetes",
            )
        self.folder = Folder(data.absolute())

    def up(
        self,
        *,
        workspaces: bool | None = None,
        webhooks_local: bool | None = None,
        port: int | None = None,
        postgres_mode: str | None = None,
        owned: bool = False,
        timeout: float = 300.0,
        progress: Callable[[str], None] = lambda _: None,
    ) -> bool:
        """Start whatever does not run; False if everything did already, and then nothing is touched.

        Options that are None stay as they were. `port` is MLflow's: None prefers the one it had, then
        5000; 0 takes any. `postgres_mode`: one of `postgres.MODES`, for a new stack; None chooses.
        `owned`: the stack stops by itself when the calling process ends, however it ends.
        Raises `BadInput` for a folder, port or option that cannot be, `Fatal` when a server does not start.
        """
        self.folder.create()
        with folder.locked(
            self.folder.lock, timeout=timeout, waiting=lambda: progress("another command is at work here")
        ):
            settings = state.read_settings(self.folder) or Settings.new(Options())
            wanted = replace(
                settings.options,
                **{
                    name: value
                    for name, value in (("workspaces", workspaces), ("webhooks_local", webhooks_local))
                    if value is not None
                },
            )
            if folder.is_locked(self.folder.supervisor_lock):
                self._check_unchanged(settings, wanted, port)
                if self.status().healthy:
                    return False
            else:
                stop_all(settings.id, self._postgres_data(settings))
                settings = self._configure(settings, wanted, port, postgres_mode, progress)
                self._launch(settings, owned=owned)
            self._wait_until_healthy(timeout, progress)
            return True

    def down(self, *, timeout: float = 60.0) -> int:
        """Stop every process of the stack and wait for it; data stays. How many there were.

        Raises `Fatal` if something outlives even SIGKILL.
        """
        if not self.folder.root.is_dir():
            return 0
        settings = state.read_settings(self.folder)
        if settings is None:
            return 0
        with folder.locked(self.folder.lock, timeout=timeout):
            data = self._postgres_data(settings)
            found = list(ours(settings.id, data))
            supervisor = state.read_state(self.folder).supervisor
            if supervisor is not None and state.is_ours(supervisor, settings):
                os.kill(supervisor.pid, signal.SIGTERM)
                wait_gone([supervisor], timeout)
            stop_all(settings.id, data)
            if left := [str(p.pid) for p in ours(settings.id, data)]:
                raise Fatal(
                    f"processes {', '.join(left)} do not end", remedy="look at them with ps, then try again"
                )
            state.write_state(self.folder, State())
            return len(found)

    def reset(self) -> None:
        """Stop the stack and delete its data, credentials and logs."""
        self.down()
        if settings := state.read_settings(self.folder):
            data = self._postgres_data(settings)
            if not data.is_relative_to(self.folder.root):
                shutil.rmtree(data.parent, ignore_errors=True)
            shutil.rmtree(self.folder.root)

    def status(self) -> Status:
        """What runs, asked of the processes and ports themselves."""
        settings = state.read_settings(self.folder) if self.folder.root.is_dir() else None
        if settings is None:
            return Status(self.folder.root, False, "absent", "", None, ())
        known = state.read_state(self.folder)
        alive = folder.is_locked(self.folder.supervisor_lock)
        supervisor = known.supervisor
        processes = [
            ProcessStatus("supervisor", supervisor.pid if alive and supervisor else None, None, alive, 0, "")
        ]
        for name in SERVERS:
            running = known.processes.get(name, state.Running())
            process = running.process
            lives = state.is_ours(process, settings, self._postgres_data(settings))
            processes.append(
                ProcessStatus(
                    name=name,
                    pid=process.pid if process and lives else None,
                    port=settings.ports.get(name),
                    healthy=lives and running.ready and self._serves(name, settings),
                    restarts=running.restarts,
                    problem=running.problem,
                )
            )
        # A supervisor that was killed could not write down its end.
        phase = known.phase if alive or known.phase in ("stopped", "failed") else "crashed"
        uri = f"http://127.0.0.1:{settings.ports['mlflow']}" if "mlflow" in settings.ports else None
        return Status(self.folder.root, True, phase, known.problem, uri, tuple(processes))

    def _serves(self, name: str, settings: Settings) -> bool:
        """Whether a server answers as it should: one that hangs still takes connections."""
        from mlflow_platform.local.server import services

        keys = credentials.load(self.folder)
        try:
            return next(s for s in services(self.folder, settings, keys) if s.name == name).ready()
        except PlatformError:
            return False  # it answers, but not to this stack's password

    def endpoints(self) -> Endpoints:
        """Addresses and logins. Raises `BadInput` where no stack was made yet."""
        from mlflow_platform.local.postgres import Postgres
        from mlflow_platform.local.seaweedfs import BUCKET, SeaweedFS

        settings = self.settings()
        keys = credentials.load(self.folder)
        postgres = Postgres(self.folder, settings, keys)
        return Endpoints(
            tracking_uri=f"http://127.0.0.1:{settings.ports['mlflow']}",
            username=keys.admin_username,
            password=keys.admin_password,
            s3_endpoint=SeaweedFS(self.folder, settings, keys).endpoint,
            s3_bucket=BUCKET,
            s3_access_key=keys.s3_access_key,
            s3_secret_key=keys.s3_secret_key,
            database_uri=postgres.uri("mlflow"),
            auth_database_uri=postgres.uri("mlflow_auth"),
            secrets=self.folder.secrets,
        )

    def settings(self) -> Settings:
        """The stack's settings. Raises `BadInput` where no stack was made yet."""
        settings = state.read_settings(self.folder)
        if settings is None or not settings.ports:
            raise BadInput(
                f"there is no stack in {self.folder.root}",
                remedy="start one with `mlplatform up`, or name its folder with --data",
            )
        return settings

    def _postgres_data(self, settings: Settings) -> Path:
        from mlflow_platform.local.postgres import data_folder

        return data_folder(self.folder, settings)

    def _check_unchanged(self, settings: Settings, wanted: Options, port: int | None) -> None:
        if wanted != settings.options or port not in (None, 0, settings.ports.get("mlflow")):
            raise BadInput(
                "the stack runs with other options",
                remedy="run `mlplatform down`, then `up` with the new ones",
            )

    def _configure(
        self,
        settings: Settings,
        options: Options,
        port: int | None,
        postgres_mode: str | None,
        progress: Callable[[str], None],
    ) -> Settings:
        """Settings for this start: ports that are free, how Postgres runs, credentials on the disk."""
        from mlflow_platform.local.postgres import choose_mode

        if port and not ports.is_free(port):
            raise BadInput(f"port {port} is in use by another program", remedy="choose another with --port")
        chosen = ports.choose(settings.ports, mlflow=port)
        moved = settings.ports.get("mlflow")
        if moved and moved != chosen["mlflow"] and port is None:
            progress(f"port {moved} is in use by another program: MLflow moves to {chosen['mlflow']}")
        mode = settings.postgres_mode or postgres_mode or choose_mode(self.folder)
        new = replace(settings, options=options, ports=chosen, postgres_mode=mode)
        # Settings first: they make the folder ours, whatever happens next.
        state.write_settings(self.folder, new)
        credentials.ensure(self.folder, has_data=self._postgres_data(new).exists())
        return new

    def _launch(self, settings: Settings, *, owned: bool) -> None:
        """Start the supervisor, detached: it outlives this process and its terminal."""
        state.write_state(self.folder, State(phase="starting"))
        me = look(os.getpid()) if owned else None
        output = logs.open_for_appending(self.folder.log("supervisor"))
        try:
            child = subprocess.Popen(
                (sys.executable, "-P", "-m", "mlflow_platform.local.supervisor", str(self.folder.root)),
                cwd=self.folder.root,
                env={**os.environ, MARK: settings.id, OWNER: f"{me.pid}:{me.started}" if me else ""},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            os.close(output)
        deadline = time.monotonic() + 30.0
        while not folder.is_locked(self.folder.supervisor_lock):
            # A child that has ended stays a zombie of ours until it is polled.
            if child.poll() is not None or time.monotonic() > deadline:
                raise self._failure("the supervisor did not start", "supervisor")
            time.sleep(0.01)
        # It is not waited for: it outlives us.
        child.returncode = 0

    def _wait_until_healthy(self, timeout: float, progress: Callable[[str], None]) -> None:
        deadline = time.monotonic() + timeout
        told = ""
        while True:
            known = state.read_state(self.folder)
            if known.phase == "failed" or not folder.is_locked(self.folder.supervisor_lock):
                # A problem that has a remedy of its own names its log already.
                remedy = "" if "\n" in known.problem else f"the logs are in {self.folder.logs}"
                raise Fatal(known.problem or "the supervisor ended", remedy=remedy)
            if known.phase == "running" and self.status().healthy:
                return
            step = known.step or next((r.problem for r in known.processes.values() if r.problem), "")
            if step and step != told:
                progress(step)
                told = step
            if time.monotonic() > deadline:
                late = [p.name for p in self.status().processes if not p.healthy]
                raise self._failure(f"not healthy after {timeout:.0f} s: {', '.join(late)}", late[-1])
            time.sleep(_POLL)

    def _failure(self, what: str, process: str) -> Fatal:
        path = self.folder.log(process)
        last = "\n    ".join(logs.tail(path, 5))
        return Fatal(what, remedy=f"its log is {path}; the last lines:\n    {last}")


def status_json(status: Status) -> Mapping[str, object]:
    """The status as JSON values."""
    return {
        "data": str(status.data),
        "phase": status.phase,
        "healthy": status.healthy,
        "problem": status.problem,
        "uri": status.uri,
        "processes": [
            {
                "name": p.name,
                "pid": p.pid,
                "port": p.port,
                "healthy": p.healthy,
                "restarts": p.restarts,
                "problem": p.problem,
            }
            for p in status.processes
        ],
    }


__all__ = ["PROCESSES", "SERVERS", "Endpoints", "ProcessStatus", "Stack", "Status", "status_json"]
