"""Each fault is made for real, and the doctor names it and its remedy."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlflow_platform.errors import BadInput
from mlflow_platform.local import Stack, credentials, doctor
from mlflow_platform.local.doctor import Check
from mlflow_platform.local.folder import write_private
from mlflow_platform.local.postgres import Postgres
from mlflow_platform.local.seaweedfs import BUCKET, SeaweedFS
from tests.local.conftest import pids


def examine(stack: Stack, environment: dict[str, str] | None = None) -> dict[str, Check]:
    return {c.name: c for c in doctor.check_stack(stack, environment or {})}


def faults(stack: Stack, environment: dict[str, str] | None = None) -> dict[str, Check]:
    """The faults by name; each has a remedy."""
    found = {n: c for n, c in examine(stack, environment).items() if c.outcome == "fault"}
    assert all(c.remedy for c in found.values())
    return found


@contextmanager
def changed_credentials(stack: Stack, **changes: str) -> Iterator[None]:
    path = stack.folder.credentials
    before = path.read_text()
    write_private(path, json.dumps({**json.loads(before), **changes}))
    try:
        yield
    finally:
        write_private(path, before)


def test_a_healthy_stack_has_no_fault(breakable: Stack) -> None:
    found = examine(breakable, breakable.endpoints().environment())
    assert {c.outcome for c in found.values()} == {"ok"}, found
    assert {"server", "login", "database mlflow", "schema mlflow_auth", "bucket", "disk", "clock"} <= set(
        found
    )


def test_it_leaves_nothing_in_the_bucket(breakable: Stack) -> None:
    examine(breakable)
    s3 = SeaweedFS(breakable.folder, breakable.settings(), credentials.load(breakable.folder))
    listed = s3.client().list_objects_v2(Bucket=BUCKET, Prefix="mlplatform-doctor/")
    assert listed["KeyCount"] == 0


def test_a_changed_password_of_the_administrator(breakable: Stack) -> None:
    with changed_credentials(breakable, admin_password="not the password"):
        found = faults(breakable)
    assert list(found) == ["login"]
    assert "refuses user 'admin'" in found["login"].found
    assert str(breakable.folder.credentials) in found["login"].remedy


def test_wrong_credentials_of_the_database_and_the_store(breakable: Stack) -> None:
    with changed_credentials(breakable, database_password="wrong", s3_secret_key="wrong"):
        found = faults(breakable)
    assert list(found) == ["database mlflow", "database mlflow_auth", "bucket"]
    assert all("put back the credentials.json" in c.remedy for c in found.values())


def test_a_schema_behind_its_head(breakable: Stack) -> None:
    postgres = Postgres(breakable.folder, breakable.settings(), credentials.load(breakable.folder))
    with postgres.connect("mlflow_auth") as connection:
        row = connection.execute("SELECT version_num FROM alembic_version_auth").fetchone()
        assert row is not None
        connection.execute("UPDATE alembic_version_auth SET version_num = 'e5f6a7b8c9d0'")
    try:
        found = faults(breakable)
    finally:
        with postgres.connect("mlflow_auth") as connection:
            connection.execute("UPDATE alembic_version_auth SET version_num = %s", row)
    assert list(found) == ["schema mlflow_auth"]
    assert "at e5f6a7b8c9d0, MLflow needs" in found["schema mlflow_auth"].found


def test_a_stopped_database(breakable: Stack) -> None:
    supervisor, postgres = pids(breakable)["supervisor"], pids(breakable)["postgres"]
    assert supervisor is not None
    assert postgres is not None
    os.kill(supervisor, signal.SIGSTOP)  # it would start the database again
    try:
        os.kill(postgres, signal.SIGKILL)
        time.sleep(0.5)
        found = faults(breakable)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert {"processes", "database mlflow", "database mlflow_auth"} <= set(found)
    assert found["processes"].found.startswith("not running: postgres")
    assert "login" in found or "store" in found, "the server cannot work either"
    assert "server" not in found
    assert "bucket" not in found
    deadline = time.monotonic() + 60
    while not breakable.status().healthy:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not faults(breakable)


def test_a_removed_bucket_comes_back_with_up(breakable: Stack) -> None:
    s3 = SeaweedFS(breakable.folder, breakable.settings(), credentials.load(breakable.folder))
    client = s3.client()
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    client.delete_bucket(Bucket=BUCKET)
    found = faults(breakable)
    assert found["bucket"].found == "there is no bucket 'mlflow'"
    assert "up" in found["bucket"].remedy
    breakable.down()
    breakable.up(owned=True)
    assert not faults(breakable)


def test_everything_stopped(breakable: Stack) -> None:
    breakable.down()
    try:
        found = examine(breakable)
    finally:
        breakable.up(owned=True)
    assert {n for n, c in found.items() if c.outcome == "fault"} == {
        "processes",
        "server",
        "database mlflow",
        "database mlflow_auth",
        "bucket",
    }
    assert "nothing listens there" in found["server"].found
    assert "mlplatform up" in found["processes"].remedy
    assert found["login"].outcome == "skipped"


def test_a_password_file_that_others_can_read(breakable: Stack) -> None:
    breakable.folder.credentials.chmod(0o644)
    try:
        found = faults(breakable)
    finally:
        breakable.folder.credentials.chmod(0o600)
    assert list(found) == ["permissions"]
    assert "chmod" in found["permissions"].remedy


def test_a_shell_with_an_old_password(breakable: Stack) -> None:
    environment = {**breakable.endpoints().environment(), "MLFLOW_TRACKING_PASSWORD": "old"}
    found = faults(breakable, environment)
    assert list(found) == ["environment"]
    assert "MLFLOW_TRACKING_PASSWORD" in found["environment"].found
    assert "old" not in found["environment"].found


def test_a_server_seen_from_outside(breakable: Stack) -> None:
    where = breakable.endpoints()
    good = list(doctor.check_server(where.tracking_uri, where.username, where.password))
    assert [c.name for c in good] == ["server", "login", "store", "artifacts", "versions", "clock"]
    assert doctor.healthy(good)
    anonymous = {c.name: c for c in doctor.check_server(where.tracking_uri, None, None)}
    assert anonymous["login"].outcome == "fault"
    assert "MLFLOW_TRACKING_USERNAME" in anonymous["login"].remedy


def test_an_artifact_store_that_is_down_is_seen_from_outside(breakable: Stack) -> None:
    """The server lives; what it needs behind it does not."""
    where = breakable.endpoints()
    supervisor, s3 = pids(breakable)["supervisor"], pids(breakable)["s3"]
    assert supervisor is not None
    assert s3 is not None
    os.kill(supervisor, signal.SIGSTOP)
    try:
        os.kill(s3, signal.SIGKILL)
        found = {c.name: c for c in doctor.check_server(where.tracking_uri, where.username, where.password)}
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert found["store"].outcome == "ok"
    assert found["artifacts"].outcome == "fault"
    breakable.up(owned=True)


@contextmanager
def strange_server(answer: bytes) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_an_address_where_something_else_answers() -> None:
    with strange_server(b"<html>Sign in</html>") as uri:
        first = next(doctor.check_server(uri, None, None))
    assert first.outcome == "fault"
    assert "not MLflow's OK" in first.found


def test_an_address_where_nobody_answers() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
        found = list(doctor.check_server(uri, None, None))
    assert "nothing listens there" in found[0].found
    assert not doctor.healthy(found)
    unknown = next(doctor.check_server("http://mlflow.invalid", None, None))
    assert unknown.outcome == "fault"


def test_an_address_that_is_none() -> None:
    with pytest.raises(BadInput, match="not the address of a server"):
        list(doctor.check_server("sqlite:///mlflow.db", None, None))


def test_what_cannot_be_made_here_is_judged_from_values(tmp_path: Path) -> None:
    gib = 1 << 30
    assert doctor._disk(tmp_path, lambda _: (100 * gib, 98 * gib, 2 * gib)).outcome == "fault"
    assert doctor._disk(tmp_path, lambda _: (100 * gib, 90 * gib, 10 * gib)).outcome == "ok"
    assert doctor._disk(tmp_path, lambda _: (5 * gib, 4 * gib + gib // 2, gib // 2)).outcome == "fault"
    ascii_database = doctor._encoding("mlflow", "SQL_ASCII")
    assert ascii_database.outcome == "fault"
    assert "UTF8" in ascii_database.remedy
    date = "Sat, 21 Nov 2026 14:00:00 GMT"
    at = 1795269600.0
    assert doctor._clock("clock", "the server", date, at).outcome == "ok"
    late = doctor._clock("clock", "the server", date, at + 120)
    assert late.outcome == "fault"
    assert "120 s behind" in late.found
    assert doctor._versions("2.1.0").outcome == "fault"
    assert "mlflow==2.1.0" in doctor._versions("2.1.0").remedy
