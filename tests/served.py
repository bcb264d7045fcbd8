"""Servers of their own beside a stack's, on its databases and store: another environment, the same keys."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow_platform.local import Stack

#: As the chart runs it; `-m` and what follows.
SERVE = ("-m", "mlflow_platform.server.serve", "--port")
#: As MLflow runs it.
MLFLOW_SERVER = ("-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1", "--port")


@dataclass(frozen=True)
class Served:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    login: str
    """The administrator's, a whole header."""

    def ask(
        self, method: str, path: str, body: str | None = None, *, host: str = "localhost", login: bool = True
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        headers = {"Host": host, "Content-Type": "application/json"}
        if login:
            headers["Authorization"] = self.login.removeprefix("Authorization: ")
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


def environment_of(stack: Stack) -> dict[str, str]:
    """That of a stack's MLflow server, with the import path of this process."""
    (pid,) = (p.pid for p in stack.status().processes if p.name == "mlflow")
    content = Path(f"/proc/{pid}/environ").read_text()
    found = dict(entry.split("=", 1) for entry in content.strip("\0").split("\0"))
    return {**found, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def serving(
    stack: Stack, folder: Path, environment: Mapping[str, str], command: Sequence[str] = SERVE
) -> Iterator[Served]:
    """A server, once it runs; `folder` gets its log. Told to stop on the way out."""
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command, str(port)], cwd=folder, env=dict(environment), stdout=log, stderr=log
        )
    endpoints = stack.endpoints()
    login = b64encode(f"{endpoints.username}:{endpoints.password}".encode()).decode()
    try:
        until(lambda: "Uvicorn running" in (folder / "log").read_text(), 180)
        yield Served(process, port, f"Authorization: Basic {login}")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
