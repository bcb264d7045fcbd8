"""A Postgres for a short while: started from the wheel in a temporary folder, gone afterwards."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mlflow_platform.errors import Fatal
from mlflow_platform.local.credentials import Credentials
from mlflow_platform.local.folder import Folder
from mlflow_platform.local.logs import tail
from mlflow_platform.local.ports import choose
from mlflow_platform.local.postgres import Postgres, choose_mode
from mlflow_platform.local.service import Command
from mlflow_platform.local.state import Options, Settings

#: How long Postgres may take to answer, in seconds.
_PATIENCE = 60.0


@contextlib.contextmanager
def scratch_postgres() -> Iterator[Postgres]:
    """A server with an empty tracking and an empty auth database."""
    with tempfile.TemporaryDirectory(prefix="mlplatform-scratch-") as name:
        folder = Folder(Path(name))
        made = Settings.new(Options())
        settings = Settings(made.id, choose({}, mlflow=0), made.options, choose_mode(folder))
        server = Postgres(folder, settings, Credentials())
        log = folder.root / "log"
        try:
            command = server.prepare(lambda c, _: _run(c, log), lambda _: None)
            # Nothing of it is to outlive the machine: no fsync (-F), and at the end no checkpoint.
            process = _start(replace(command, arguments=(*command.arguments, "-F")), log)
            try:
                _wait(server, process, log)
                server.settle()
                yield server
            finally:
                process.send_signal(signal.SIGQUIT)
                try:
                    process.wait(server.stop_grace)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        finally:
            if not server.data.is_relative_to(folder.root):
                shutil.rmtree(server.data.parent, ignore_errors=True)


def _run(command: Command, log: Path) -> None:
    if _start(command, log).wait(_PATIENCE):
        raise _failure("no database cluster could be made", log)


def _start(command: Command, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command.arguments,
            cwd=command.directory,
            env=dict(command.environment),
            user=command.user,
            group=command.group,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def _wait(server: Postgres, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not server.ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise _failure("the scratch database did not start", log)
        time.sleep(0.05)


def _failure(what: str, log: Path) -> Fatal:
    last = "\n    ".join(tail(log, 5))
    return Fatal(what, remedy=f"name an empty one with --database; its last words:\n    {last}")
