"""A real uvicorn that drains: what its clients see between SIGTERM and the end."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlflow_platform.server import draining

#: /slow answers when the file `go` is there; it says on standard output that it has begun.
APP = """
import asyncio, pathlib, sys
from mlflow_platform.server import draining

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/slow":
        print("slow", flush=True)
        while not pathlib.Path("go").exists():
            await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"OK"})

def create_app():
    return draining.wrap(app)
"""


class Server:
    def __init__(self, folder: Path, seconds: float) -> None:
        (folder / "served.py").write_text(textwrap.dedent(APP))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.folder = folder
        self.connections: list[http.client.HTTPConnection] = []
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "uvicorn", "--factory", "--loop", "uvloop", "served:create_app"),
                    *("--port", str(self.port), "--timeout-keep-alive", "60"),
                ],
                cwd=folder,
                env={**os.environ, draining.VARIABLE: str(seconds), "PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        until(lambda: self.says("Uvicorn running"))

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        self.process.kill()
        self.process.communicate()

    def says(self, words: str) -> bool:
        return words in (self.folder / "log").read_text()

    def connection(self) -> http.client.HTTPConnection:
        self.connections.append(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30))
        return self.connections[-1]

    def drain(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        until(lambda: self.says("Draining"))

    def ended(self) -> int:
        """The exit code, once it has ended: uvicorn ends by the signal that it was told to stop with."""
        return self.process.wait(30)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def get(connection: http.client.HTTPConnection, path: str = "/", **headers: str) -> str | None:
    """The answer's header `connection`."""
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"OK")
    return answer.getheader("connection")


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], Server]]:
    started: list[Server] = []

    def begin(seconds: float) -> Server:
        started.append(Server(tmp_path, seconds))
        return started[-1]

    yield begin
    for server in started:
        server.close()


def test_kept_connections_end_with_an_answer_that_says_so_and_new_ones_are_served(
    start: Callable[[float], Server],
) -> None:
    server = start(600)
    kept = server.connection()
    while get(kept) == "close":  # one answer in a thousand
        pass
    server.drain()
    assert get(kept) == "close"
    assert kept.sock is None  # closed by the answer, so the next request makes another
    assert get(kept) == "close"
    server.process.send_signal(signal.SIGTERM)  # a second one does not wait for the rest of the drain
    assert server.ended() == -signal.SIGTERM


def test_it_ends_when_nobody_but_a_probe_asks_and_answers_what_is_under_way(
    start: Callable[[float], Server],
) -> None:
    server = start(0.5)
    slow, probe = server.connection(), server.connection()
    slow.request("GET", "/slow")
    assert server.process.stdout is not None
    assert server.process.stdout.readline() == "slow\n"
    server.drain()
    # The probe asks for as long as it is answered, and does not hold the end back.
    with contextlib.suppress(ConnectionError):
        while True:
            get(probe, **{"User-Agent": "kube-probe/1.34"})
    assert server.process.poll() is None  # it waits for the slow one
    (server.folder / "go").touch()
    answer = slow.getresponse()
    assert (answer.read(), answer.getheader("connection")) == (b"OK", "close")
    assert server.ended() == -signal.SIGTERM


def test_requests_hold_the_end_back_but_not_for_ever(start: Callable[[float], Server]) -> None:
    server = start(1.5)
    client = server.connection()
    server.drain()
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while True:
            get(client)
            time.sleep(0.05)
    assert time.monotonic() - began > 2  # a drain without requests had ended before
    assert server.ended() == -signal.SIGTERM


def test_without_a_drain_it_stops_at_once(start: Callable[[float], Server]) -> None:
    server = start(0)
    assert get(server.connection()) in (None, "close")
    server.process.send_signal(signal.SIGTERM)
    assert server.ended() == -signal.SIGTERM
