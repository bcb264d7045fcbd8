"""A real server whose database is cut off, falls silent and comes back: what its probes say."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from mlflow_platform.local import Stack
from tests.faults import wire
from tests.served import SERVE, Served, environment_of, free_port, serving, until

#: More than the threads that MLflow's requests share: 40, anyio's default limiter.
STUCK = 45


@dataclass(frozen=True)
class Probed:
    """A second server of a stack; its databases are behind a wire, and at its store nobody listens."""

    server: Served
    database: wire.Wire

    def probe(self, path: str) -> tuple[int, str]:
        return self.server.ask("GET", path, host="stranger", login=False)

    def send(self, path: str) -> socket.socket:
        """Send a request and do not wait for the answer."""
        sent = socket.create_connection(("127.0.0.1", self.server.port))
        sent.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{self.server.login}\r\n\r\n".encode())
        return sent

    @property
    def threads(self) -> int:
        return psutil.Process(self.server.process.pid).num_threads()


@pytest.fixture(scope="module")
def probed(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probed]:
    folder = tmp_path_factory.mktemp("served")
    (real,) = (p.port for p in stack.status().processes if p.name == "postgres")
    assert real is not None
    environment = environment_of(stack)
    with wire.before("127.0.0.1", real) as database:
        config = Path(environment["MLFLOW_AUTH_CONFIG_PATH"]).read_text()
        (folder / "auth.ini").write_text(config.replace(f":{real}/", f":{database.port}/"))
        environment |= {
            "MLFLOW_BACKEND_STORE_URI": environment["MLFLOW_BACKEND_STORE_URI"].replace(
                f":{real}/", f":{database.port}/"
            ),
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        }
        with serving(stack, folder, environment) as server:
            yield Probed(server, database)


def readiness(probed: Probed, wanted: int) -> str:
    """What /readyz says once it says so: an answer stands for some seconds."""
    until(lambda: probed.probe("/readyz")[0] == wanted)
    return probed.probe("/readyz")[1]


def test_ready_without_login_or_store_and_under_any_host(probed: Probed) -> None:
    assert probed.probe("/readyz") == (200, "OK")
    assert probed.probe("/health") == (200, "OK")
    assert probed.server.ask("GET", "/version", login=False)[0] == 401
    assert probed.probe("/api/2.0/mlflow/experiments/get?experiment_id=0")[0] == 403


def test_a_silent_database_makes_it_unready_and_leaves_it_alive(probed: Probed) -> None:
    path = "/api/2.0/mlflow/experiments/get?experiment_id=0"
    probed.database.silent()
    waiting = [probed.send(path) for _ in range(STUCK)]
    said = readiness(probed, 503)
    assert said == "the tracking database did not answer within 3 s"
    threads = probed.threads
    for _ in range(3):
        assert probed.probe("/health") == (200, "OK")
        assert probed.probe("/readyz") == (503, said)
    assert probed.threads <= threads + 1
    for connection in waiting:
        connection.close()
    probed.database.cut()
    probed.database.whole()
    assert readiness(probed, 200) == "OK"


def test_a_database_that_refuses_is_said_without_its_address(probed: Probed) -> None:
    probed.database.cut()
    said = readiness(probed, 503)
    assert said == "the tracking database cannot be reached"
    assert probed.probe("/health") == (200, "OK")
    probed.database.whole()
    assert readiness(probed, 200) == "OK"


def test_one_question_at_a_time_answers_all_who_ask(probed: Probed, stack: Stack) -> None:
    import psycopg

    for _ in range(20):
        assert probed.probe("/readyz")[0] == 200
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
        [sys.executable, *SERVE, str(free_port())],
        cwd=tmp_path,
        env={**environment_of(stack), "MLFLOW_BACKEND_STORE_URI": uri},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
