"""What a command says when it cannot do its work: on standard error for people, as JSON for pipelines."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.cli import output
from mlflow_platform.cli.root import _named, run
from mlflow_platform.errors import EXIT_ERROR, EXIT_USAGE, BadInput

CAPTURE = pytest.CaptureFixture[str]
BAD = """\
apiVersion: mlplatform.io/v1alpha1
kind: Experiment
metadata: {name: a}
spec: {nme: x, tags: {a: 3}}
"""


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No stack and no server of whoever runs the tests."""
    monkeypatch.setenv("MLPLATFORM_DATA", str(tmp_path / "no-stack"))
    for name in ("URI", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


@pytest.fixture
def mute() -> Iterator[tuple[str, threading.Event]]:
    """The address of a server that takes connections and requests and never answers; the event is set when
    it has got a request."""
    asked = threading.Event()
    kept = []

    def take(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # shut down
            kept.append(connection)
            if connection.recv(1):
                asked.set()

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=take, args=(listener,))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in kept:
        connection.close()


def documents(folder: Path) -> str:
    folder.mkdir()
    (folder / "mlplatform.toml").write_text('project = "cli-root"\n')
    (folder / "a.yaml").write_text(BAD.replace("nme: x, tags: {a: 3}", ""))
    return str(folder)


def told(capsys: CAPTURE) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["error"]
    return found


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("file", "file where a folder is needed"),
        ("file/within", "a part of the path is a file where a folder is needed"),
        ("/proc/x", "cannot use /proc/x: no such file or directory"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: CAPTURE, path: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    assert run(["render", "--profile", "small", "--output-dir", path]) == EXIT_ERROR
    message = capsys.readouterr().err
    assert message.startswith(f"error: cannot use {path}: ")
    assert said in message
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize("name", ["none/x.plan", "file/x.plan", "folder"])
def test_a_plan_that_cannot_be_saved_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput) as error:
        output.write_private(tmp_path / name, {"a": 1})
    assert str(error.value).startswith(f"cannot use {tmp_path / name}: ")
    assert error.value.problem.remedy
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_full_disk_is_no_traceback() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with (
            pytest.raises(BadInput, match="cannot use x: no space left on device\n    make room"),
            output.using(Path("x")),
        ):
            os.write(full, b"x")
    finally:
        os.close(full)


def test_a_full_disk_behind_standard_output_is_no_traceback() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        done = subprocess.run(
            [sys.executable, "-m", "mlflow_platform.cli", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        EXIT_ERROR,
        "error: no space left to write to\n    make room on the disk\n",
    )


def test_a_path_that_somebody_named_gets_a_message_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    within, beside = tmp_path / "c" / "a.yaml", tmp_path / "d"
    assert _named(FileNotFoundError(2, "no", str(within)), ["plan", "c", "--json"]) == "c"
    assert _named(FileNotFoundError(2, "no", str(tmp_path / "x")), ["import", "--out=x/y/z"]) == "x/y/z"
    assert _named(FileNotFoundError(2, "no", str(beside)), ["plan", "c", "--json"]) is None
    own = Path(output.__file__).parent / "data.json"
    assert _named(FileNotFoundError(2, "no", str(own)), ["plan", "/"]) is None
    assert _named(ConnectionResetError(104, "reset"), ["plan", "/"]) is None


def test_every_mistake_of_the_documents_is_in_the_json(tmp_path: Path, capsys: CAPTURE) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(BAD)
    assert run(["plan", "--json", str(tmp_path)]) == EXIT_ERROR
    done = capsys.readouterr()
    error = json.loads(done.out)["error"]
    assert (error["type"], error["exit_code"]) == ("BadDocuments", EXIT_ERROR)
    first, second = error["problems"]
    assert first == {
        "what": "unknown field spec.nme",
        "remedy": "did you mean name?",
        "file": str(file),
        "line": 4,
        "column": 8,
    }
    assert second["column"] == 26
    assert f"error: {file}:4:8: unknown field spec.nme" in done.err


def test_an_error_without_a_place_has_all_the_keys(tmp_path: Path, capsys: CAPTURE) -> None:
    assert run(["apply", documents(tmp_path / "c"), "--json"]) == EXIT_ERROR
    (problem,) = told(capsys)["problems"]
    assert problem["what"].startswith("no tracking server")
    assert problem["remedy"].startswith("pass --tracking-uri")
    assert (problem["file"], problem["line"], problem["column"]) == (None, None, None)


def test_a_mistake_on_the_command_line_is_json_too(capsys: CAPTURE) -> None:
    assert run(["plan", "--json", "/no/such/folder"]) == EXIT_USAGE
    error = told(capsys)
    assert (error["type"], error["exit_code"]) == ("UsageError", EXIT_USAGE)
    assert "/no/such/folder" in error["problems"][0]["what"]


def test_without_json_or_behind_dashes_standard_output_stays_empty(capsys: CAPTURE) -> None:
    assert run(["plan", "--", "--json"]) == EXIT_USAGE
    assert run(["plan"]) == EXIT_ERROR
    assert "error" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "said"),
    [("plann", "did you mean plan?"), ("Apply", "did you mean apply?"), ("zzz", "known: up, down, status")],
)
def test_the_nearest_command_is_named(typed: str, said: str, capsys: CAPTURE) -> None:
    assert run([typed, "x"]) == EXIT_USAGE
    assert f"there is no command '{typed}': {said}" in capsys.readouterr().err


def test_completion_still_completes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from mlflow_platform.cli import main; main()"],
        env={"_MLPLATFORM_COMPLETE": "bash_complete", "COMP_WORDS": "mlplatform plann x", "COMP_CWORD": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "there is no command" not in done.stderr


def test_a_server_that_never_answers_is_given_up_soon(
    tmp_path: Path, mute: tuple[str, threading.Event], capsys: CAPTURE
) -> None:
    uri, asked = mute
    assert run(["plan", documents(tmp_path / "c"), "--tracking-uri", uri]) == EXIT_ERROR
    assert asked.is_set()
    message = capsys.readouterr().err
    assert f"{uri} took the connection, but gave no whole answer to GET api/3.0/mlflow/server-info" in message
    assert "within 10 s" in message
    assert "check the tracking URI" in message


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, mute: tuple[str, threading.Event], number: signal.Signals, code: int
) -> None:
    uri, asked = mute
    command = ["apply", documents(tmp_path / "c"), "--tracking-uri", uri]
    applying = subprocess.Popen(
        [sys.executable, "-m", "mlflow_platform.cli", *command],
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores SIGINT and hands that down; a terminal's command does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert asked.wait(60)
        applying.send_signal(number)
        _, message = applying.communicate(timeout=60)
    finally:
        applying.kill()
        applying.wait()
    assert applying.returncode == code
    assert message.strip() == "stopped: what was written stays, and the next apply finishes what is left"
