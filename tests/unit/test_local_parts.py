"""Processes, ports, credentials, logs, schema heads, secret references: the parts of a stack."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.config import load
from mlflow_platform.errors import Fatal
from mlflow_platform.local import credentials, logs, ports, processes, schema
from mlflow_platform.local.documents import references
from mlflow_platform.local.folder import Folder


def test_a_process_is_known_by_more_than_its_pid() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = processes.look(child.pid)
        assert process is not None
        assert process.alive
        assert not processes.Process(process.pid, process.started + 1).alive, "the pid was given away"
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not process.alive, "a zombie does not run"
    assert processes.look(child.pid) is None


def test_a_process_lives_until_its_last_thread_has_ended() -> None:
    """After kill -9 the first thread may be a zombie while another still holds the supervisor's lock."""
    program = """
import ctypes, threading
threading.Thread(target=input).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as child:
        process = processes.look(child.pid)
        assert process is not None
        stat = Path(f"/proc/{child.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            assert child.poll() is None
        assert process.alive
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not process.alive


def test_only_marked_processes_are_ours_and_they_are_stopped_with_their_children() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    marked = {**os.environ, processes.MARK: "the-stack"}
    with (
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, env=marked) as mine,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as strange,
    ):
        while len(found := list(processes.ours("the-stack"))) < 2:
            assert mine.poll() is None
        assert mine.pid in {p.pid for p in found}
        assert not list(processes.ours("the-stac"))
        assert not list(processes.ours("the-stack", but=[p.pid for p in found]))
        threading.Thread(target=mine.wait).start()  # reaps it, as init does for a detached one
        assert processes.stop_all("the-stack", None, grace=5.0) == 2
        assert not any(p.alive for p in found)
        assert strange.poll() is None
        strange.kill()


def test_ports_are_kept_while_they_are_free() -> None:
    first = ports.choose({}, mlflow=0)
    assert set(first) == set(ports.NAMES)
    assert len(set(first.values())) == len(first)
    assert ports.choose(first) == first
    with socket.create_server(("127.0.0.1", first["mlflow"])):
        assert not ports.is_free(first["mlflow"])
        moved = ports.choose(first)
        assert {n for n in first if first[n] != moved[n]} == {"mlflow"}
    assert ports.choose(first, mlflow=first["s3"] + 1)["mlflow"] == first["s3"] + 1


def test_5000_is_preferred_and_given_up_when_taken() -> None:
    if ports.is_free(ports.MLFLOW_PORT):
        assert ports.choose({})["mlflow"] == ports.MLFLOW_PORT
        holder = socket.create_server(("127.0.0.1", ports.MLFLOW_PORT))
    else:
        holder = socket.socket()  # another program on this machine holds it already
    with holder:
        assert ports.choose({})["mlflow"] != ports.MLFLOW_PORT


def test_credentials_are_made_once_and_never_shown(tmp_path: Path) -> None:
    where = Folder(tmp_path)
    made = credentials.ensure(where, has_data=False)
    assert credentials.ensure(where, has_data=False) == made
    assert where.credentials.stat().st_mode & 0o777 == 0o600
    assert made.admin_password not in repr(made)
    assert len({made.admin_password, made.postgres_password, made.database_password}) == 3
    where.credentials.unlink()
    with pytest.raises(Fatal, match="missing or damaged"):
        credentials.ensure(where, has_data=True)
    assert not where.credentials.exists(), "new ones would not fit the data"
    where.credentials.write_text("{}")
    with pytest.raises(Fatal, match="missing or damaged"):
        credentials.load(where)


DOCUMENTS = """\
apiVersion: mlplatform.io/v1alpha1
kind: MLflowUser
metadata: {name: ada}
spec: {passwordSecretRef: {name: ada, key: password}}
---
apiVersion: mlplatform.io/v1alpha1
kind: Webhook
metadata: {name: hook}
spec:
  url: https://example.com/hook
  events: [model_version.created]
  secretRef: {name: hook, key: secret}
---
apiVersion: mlplatform.io/v1alpha1
kind: MLflowUser
metadata: {name: elsewhere}
spec: {server: other, passwordSecretRef: {name: elsewhere, key: password}}
---
apiVersion: mlplatform.io/v1alpha1
kind: TrackingServer
metadata: {name: other}
spec:
  trackingUri: https://mlflow.example.com
  credentials:
    usernameSecretRef: {name: other, key: username}
    passwordSecretRef: {name: other, key: password}
"""


def test_secrets_are_invented_for_the_local_server_only(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(DOCUMENTS)
    found = list(references(one.document for one in load([tmp_path / "d.yaml"]).documents))
    assert sorted(found) == [("ada", "password"), ("hook", "secret")]
    (tmp_path / "secrets" / "ada").mkdir(parents=True)
    (tmp_path / "secrets" / "ada" / "password").write_text("chosen by hand")
    written = credentials.ensure_values(tmp_path / "secrets", found)
    assert written == [tmp_path / "secrets" / "hook" / "secret"]
    assert (tmp_path / "secrets" / "ada" / "password").read_text() == "chosen by hand"
    assert credentials.ensure_values(tmp_path / "secrets", found) == []


def test_a_log_that_is_too_long_starts_anew_for_a_writer_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    descriptor = logs.open_for_appending(path)
    try:
        os.write(descriptor, b"a" * 100)
        assert not logs.bound(path, maximum=100)
        os.write(descriptor, b"b")
        assert logs.bound(path, maximum=100)
        os.write(descriptor, b"c")
    finally:
        os.close(descriptor)
    assert path.read_bytes() == b"c"
    assert (tmp_path / "x.log.1").read_bytes() == b"a" * 100 + b"b"
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}
    assert not logs.bound(tmp_path / "none.log")


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=300), max_size=400),
    st.integers(0, 500),
)
def test_tail_is_the_end_of_the_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], n: int
) -> None:
    path = tmp_path_factory.mktemp("tail") / "log"
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    assert logs.tail(path, n) == lines[max(0, len(lines) - n) :]
    assert logs.tail(path.with_name("none"), n) == []


def test_follow_sees_what_is_added_and_notices_an_emptied_file(tmp_path: Path) -> None:
    path, later = tmp_path / "a.log", tmp_path / "b.log"
    path.write_text("old\n")
    lines = logs.follow([path, later], interval=0.01)
    writes = [("one\ntw", path, "a"), ("other\n", later, "w"), ("anew\n", path, "w")]
    seen = []
    for text, target, mode in writes:
        timer = threading.Timer(0.05, _write, (target, mode, text))
        timer.start()
        seen.append(next(lines))
        timer.join()
    assert seen == [(path, "one"), (later, "other"), (path, "anew")]


def _write(path: Path, mode: str, text: str) -> None:
    with path.open(mode) as file:
        file.write(text)


def test_heads_of_the_installed_mlflow_are_alembics() -> None:
    """Read from the scripts' text; Alembic, which imports them, says the same."""
    import mlflow
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    for database, (_, versions) in schema.MIGRATIONS.items():
        config = Config()
        folder = (Path(mlflow.__file__).parent / versions).parent
        config.set_main_option("script_location", str(folder))
        assert ScriptDirectory.from_config(config).get_heads() == [schema.head(database)]
