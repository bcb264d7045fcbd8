"""A real server whose database is cut off, falls silent and comes back: what its probes say."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from mlflow_platform.local import Stack
from tests.faults import wire

#: More than the threads that MLflow's requests share: 40, anyio's default limiter.
STUCK = 45


@dataclass(frozen=True)
class Served:
    """A second server of a stack, whose databases are behind a wire."""

    process: subprocess.Popen[bytes]
    port: int
    database: wire.Wire
    login: str

    def ask(self, path: str, host: str = "stranger") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request("GET", path, headers={"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def send(self, path: str) -> socket.socket:
        """Send a request and do not wait for the answer."""
        sent = socket.create_connection(("127.0.0.1", self.port))
        sent.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{self.login}\r\n\r\n".encode())
        return sent


def environment_of(stack: Stack) -> dict[str, str]:
    """That of a stack's MLflow server."""
    (pid,) = (p.pid for p in stack.status().processes if p.name == "mlflow")
    content = Path(f"/proc/{pid}/environ").read_text()
    return dict(entry.split("=", 1) for entry in content.strip("\0").split("\0"))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def served(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """It has no store at all: nothing listens at the store's address."""
    folder = tmp_path_factory.mktemp("served")
    real, port = stack.status().processes[1].port, free_port()
    assert real is not None
    environment = environment_of(stack)
    with wire.before("127.0.0.1", real) as database, (folder / "log").open("wb") as log:
        config = Path(environment["MLFLOW_AUTH_CONFIG_PATH"]).read_text()
        (folder / "auth.ini").write_text(config.replace(f":{real}/", f":{database.port}/"))
        uri = environment["MLFLOW_BACKEND_STORE_URI"].replace(f":{real}/", f":{database.port}/")
        environment |= {
            "MLFLOW_BACKEND_STORE_URI": uri,
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow_platform.server.serve", "--port", str(port)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
        endpoints = stack.endpoints()
        login = b64encode(f"{endpoints.username}:{endpoints.password}".encode()).decode()
        one = Served(process, port, database, f"Authorization: Basic {login}")
        try:
            until(lambda: "Uvicorn running" in (folder / "log").read_text(), 120)
            yield one
        finally:
            process.kill()
            process.wait()


def readiness(served: Served, wanted: int) -> str:
    """What /readyz says once it says so: an answer stands for some seconds."""
    until(lambda: served.ask("/readyz")[0] == wanted)
    return served.ask("/readyz")[1]


def test_ready_without_login_or_store_and_under_any_host(served: Served) -> None:
    assert served.ask("/readyz") == (200, "OK")
    assert served.ask("/health") == (200, "OK")
    assert served.ask("/version", host="localhost")[0] == 401
    assert served.ask("/api/2.0/mlflow/experiments/get?experiment_id=0")[0] == 403


def test_a_silent_database_makes_it_unready_and_leaves_it_alive(served: Served) -> None:
    path = "/api/2.0/mlflow/experiments/get?experiment_id=0"
    served.database.silent()
    waiting = [served.send(path) for _ in range(STUCK)]
    said = readiness(served, 503)
    assert said == "the tracking database did not answer within 3 s"
    threads = psutil.Process(served.process.pid).num_threads()
    for _ in range(3):
        assert served.ask("/health") == (200, "OK")
        assert served.ask("/readyz") == (503, said)
    assert psutil.Process(served.process.pid).num_threads() <= threads + 1
    for connection in waiting:
        connection.close()
    served.database.cut()
    served.database.whole()
    assert readiness(served, 200) == "OK"


def test_a_database_that_refuses_is_said_without_its_address(served: Served) -> None:
    served.database.cut()
    said = readiness(served, 503)
    assert said == "the tracking database cannot be reached"
    assert served.ask("/health") == (200, "OK")
    served.database.whole()
    assert readiness(served, 200) == "OK"


def test_one_question_at_a_time_answers_all_who_ask(served: Served, stack: Stack) -> None:
    import psycopg

    for _ in range(20):
        assert served.ask("/readyz")[0] == 200
    database = stack.endpoints().database_uri.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(database) as connection:
        found = connection.execute(
            "select count(*) from pg_stat_activity where query = 'select 1' and application_name = %s",
            ["mlplatform-readyz"],
        ).fetchone()
    # The stack's own server has one too, if somebody has asked it.
    assert found is not None
    assert found[0] in (1, 2)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "error: MLFLOW_BACKEND_STORE_URI is not set\n    name the tracking database: postgresql"),
        ("sqlite:///x.db", "error: the tracking database is sqlite\n    name a Postgres"),
    ],
)
def test_a_server_that_cannot_be_says_why_in_two_lines(
    stack: Stack, tmp_path: Path, uri: str, message: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlflow_platform.server.serve", "--port", str(free_port())],
        cwd=tmp_path,
        env={
            **environment_of(stack),
            "MLFLOW_BACKEND_STORE_URI": uri,
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
