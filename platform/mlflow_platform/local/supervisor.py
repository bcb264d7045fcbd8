"""The process that owns a stack's servers: starts them in order, restarts what dies, stops them cleanly.

Started by `Stack.up` as `python -m mlflow_platform.local.supervisor FOLDER`, detached from the
terminal. One thread a server; the main thread waits for SIGTERM and bounds the logs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from mlflow_platform.errors import Fatal, PlatformError
from mlflow_platform.local import credentials, logs
from mlflow_platform.local.folder import Folder, locked
from mlflow_platform.local.ports import is_free
from mlflow_platform.local.postgres import data_folder
from mlflow_platform.local.processes import OWNER, Process, look, stop_all, stop_session
from mlflow_platform.local.server import services
from mlflow_platform.local.service import Command, Service
from mlflow_platform.local.state import Running, Settings, State, read_settings, write_state

#: Seconds before a restart: doubled each time from the first to the last, back to the first after a
#: server has lived for `_SETTLED` seconds.
_BACKOFF = (0.5, 30.0)
_SETTLED = 60.0
#: A server that never became ready in so many tries ends the start with an error.
_TRIES = 3
#: Seconds a server may take to become ready. MLflow imports for 12 s on two idle cores; a recovering
#: Postgres reads its log first.
_START_TIMEOUT = 180.0
_POLL = 0.05


class Supervisor:
    """Runs the services of one folder until it is told to stop."""

    def __init__(self, folder: Folder, settings: Settings) -> None:
        self.folder = folder
        keys = credentials.load(folder)
        self._postgres_data = data_folder(folder, settings)
        self._services: tuple[Service, ...] = services(folder, settings, keys)
        self._settings = settings
        self._stop = threading.Event()
        self._ready = {s.name: threading.Event() for s in self._services}
        self._halt = {s.name: threading.Event() for s in self._services}
        self._guard = threading.Lock()
        self._state = State(
            phase="starting",
            supervisor=look(os.getpid()),
            processes={s.name: Running() for s in self._services},
        )

    def run(self) -> int:
        """Start everything, keep it running until SIGTERM or SIGINT; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._write()
        stop_all(self._settings.id, self._postgres_data)  # what an earlier supervisor left behind
        threads = {
            s.name: threading.Thread(target=self._serve, args=(s,), name=s.name) for s in self._services
        }
        for thread in threads.values():
            thread.start()
        owner = _owner()
        while not self._stop.wait(1.0):
            if owner is not None and not owner.alive:
                break
            for path in self.folder.logs.glob("*.log"):
                logs.bound(path)
        if self._state.phase != "failed":
            self._change(phase="stopping", step="")
        # In the opposite order of the start: MLflow first, then what it needs.
        for batch in (("mlflow",), ("s3", "postgres")):
            for name in batch:
                self._halt[name].set()
            for name in batch:
                threads[name].join()
        stop_all(self._settings.id, self._postgres_data)
        failed = self._state.phase == "failed"
        self._change(phase="failed" if failed else "stopped", step="", supervisor=None)
        return 1 if failed else 0

    def _serve(self, service: Service) -> None:
        """One server's life: prepare, start, wait until ready, watch, and again."""
        halt = self._halt[service.name]
        delay, tries, was_ready = _BACKOFF[0], 0, False
        while not halt.is_set():
            if not self._wait_for_needs(service):
                return
            began = time.monotonic()
            tries += 1
            problem = self._once(service)
            if halt.is_set():
                return
            was_ready = was_ready or self._ready[service.name].is_set()
            self._ready[service.name].clear()
            print(f"{service.name}: {problem}", flush=True)
            self._set(service.name, process=None, ready=False, problem=problem)
            if not was_ready and tries >= _TRIES:
                self._fail(f"{service.name} did not start: {problem}")
                return
            if time.monotonic() - began > _SETTLED:
                delay = _BACKOFF[0]
            if halt.wait(delay):
                return
            delay = min(2 * delay, _BACKOFF[1])
            self._set(service.name, restarts=self._state.processes[service.name].restarts + 1)

    def _once(self, service: Service) -> str:
        """One run of a server from preparation to its end; why it ended."""
        halt = self._halt[service.name]
        child: subprocess.Popen[bytes] | None = None
        try:
            command = service.prepare(
                lambda command, log: self._run_to_end(command, log, halt),
                lambda step: self._change(step=step),
            )
            taken = [
                n for n, p in self._settings.ports.items() if _server_of(n) == service.name and not is_free(p)
            ]
            if taken:
                numbers = ", ".join(str(self._settings.ports[n]) for n in taken)
                return f"port {numbers} is in use by another program"
            self._change(step=f"starting {service.name}")
            child = self._spawn(command, service.name)
            self._set(service.name, process=look(child.pid))
            deadline = time.monotonic() + _START_TIMEOUT
            while not service.ready():
                if child.poll() is not None:
                    return f"ended with {_exit(child.returncode)} while starting"
                if time.monotonic() > deadline:
                    return f"not ready after {_START_TIMEOUT:.0f} s"
                if halt.wait(_POLL):
                    return "stopped"
            service.settle()
            self._ready[service.name].set()
            self._set(service.name, ready=True, problem="")
            print(f"{service.name}: ready, pid {child.pid}", flush=True)
            while child.poll() is None:
                if halt.wait(_POLL * 4):
                    return "stopped"
            return f"ended with {_exit(child.returncode)}"
        except PlatformError as error:
            if isinstance(error, Fatal) and not self._ready[service.name].is_set():
                self._fail(str(error))
            return str(error)
        except Exception as error:  # noqa: BLE001 - a fault of one server must not end the others
            return f"{type(error).__name__}: {error}"
        finally:
            if child is not None:
                _end(child, self._settings.id, service.stop_signal, service.stop_grace)

    def _wait_for_needs(self, service: Service) -> bool:
        halt = self._halt[service.name]
        while not all(self._ready[name].is_set() for name in service.needs):
            if halt.wait(_POLL):
                return False
        return True

    def _spawn(self, command: Command, log: str) -> subprocess.Popen[bytes]:
        output = logs.open_for_appending(self.folder.log(log))
        try:
            return subprocess.Popen(
                command.arguments,
                cwd=command.directory,
                env=dict(command.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=command.user,
                group=command.group,
                extra_groups=[] if command.user is not None else None,
            )
        finally:
            os.close(output)

    def _run_to_end(self, command: Command, log: str, halt: threading.Event) -> None:
        child = self._spawn(command, log)
        try:
            while child.poll() is None:
                if halt.wait(_POLL):
                    raise Fatal("stopped")
        finally:
            _end(child, self._settings.id, signal.SIGTERM, 10.0)
        if child.returncode != 0:
            last = "\n    ".join(logs.tail(self.folder.log(log), 5))
            raise Fatal(
                f"{Path(command.arguments[-1]).name if log == 'migrate' else log} ended with "
                f"{_exit(child.returncode)}",
                remedy=f"its log is {self.folder.log(log)}; its last lines:\n    {last}",
            )

    def _fail(self, problem: str) -> None:
        self._change(phase="failed", problem=problem)
        self._stop.set()

    def _set(self, name: str, **changes: object) -> None:
        with self._guard:
            running = replace(self._state.processes[name], **changes)  # type: ignore[arg-type]
            self._state = replace(self._state, processes={**self._state.processes, name: running})
            if self._state.phase == "starting" and all(r.ready for r in self._state.processes.values()):
                self._state = replace(self._state, phase="running", step="")
            self._write()

    def _change(self, **changes: object) -> None:
        with self._guard:
            if self._state.phase == "running":
                changes.pop("step", None)  # steps are of a start
            self._state = replace(self._state, **changes)  # type: ignore[arg-type]
            self._write()

    def _write(self) -> None:
        # A full disk must not end the servers that still run.
        with contextlib.suppress(OSError):
            write_state(self.folder, self._state)


def _owner() -> Process | None:
    """The process whose end is also the stack's, if `Stack.up` was told one."""
    pid, _, started = os.environ.get(OWNER, "").partition(":")
    return Process(int(pid), int(started)) if pid and started else None


def _server_of(port: str) -> str:
    return "s3" if port.startswith("s3") else port


def _exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _end(child: subprocess.Popen[bytes], stack_id: str, number: signal.Signals, grace: float) -> None:
    """Stop a child; the kernel keeps its pid until it is waited for, so it is surely the same one."""
    if child.poll() is None:
        child.send_signal(number)
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    # A server that dies may leave its own children, which would keep its port.
    stop_session(child.pid, stack_id)


def main() -> int:
    """The program: one argument, the data folder."""
    folder = Folder(Path(sys.argv[1]))
    try:
        with locked(folder.supervisor_lock):
            settings = read_settings(folder)
            if settings is None:
                raise Fatal(f"{folder.root} holds no stack")
            return Supervisor(folder, settings).run()
    except PlatformError as error:
        print(error, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
