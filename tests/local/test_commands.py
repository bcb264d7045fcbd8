"""The commands as a user runs them, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlflow_platform.cli.root import run
from mlflow_platform.local import Stack
from mlflow_platform.local.folder import locked
from tests.local.conftest import mlplatform, pids


def test_up_of_a_running_stack_says_so_and_changes_nothing(stack: Stack) -> None:
    before = pids(stack)
    done = mlplatform("up", "--data", str(stack.folder.root))
    assert done.returncode == 0, done.stderr
    assert "was up already; nothing changed" in done.stdout
    assert stack.endpoints().tracking_uri in done.stdout
    assert "mlplatform env --data" in done.stdout
    assert stack.endpoints().password not in done.stdout + done.stderr
    assert "\033" not in done.stdout + done.stderr, "colours off a terminal"
    again = json.loads(mlplatform("up", "--json", "--data", str(stack.folder.root)).stdout)
    assert again["started"] is False
    assert again["uri"] == stack.endpoints().tracking_uri
    assert pids(stack) == before


def test_status_tells_health_by_its_exit_code(stack: Stack, tmp_path: Path) -> None:
    done = mlplatform("status", "--json", "--data", str(stack.folder.root))
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert told["healthy"] is True
    assert {p["name"]: p["pid"] for p in told["processes"]} == pids(stack)
    text = mlplatform("status", "--data", str(stack.folder.root)).stdout
    assert "running: http://127.0.0.1:" in text
    absent = mlplatform("status", "--data", str(tmp_path / "none"))
    assert absent.returncode == 1
    assert "mlplatform up" in absent.stdout
    assert not (tmp_path / "none").exists()


def test_env_is_safe_to_evaluate(stack: Stack) -> None:
    done = mlplatform("env", "--data", str(stack.folder.root))
    shell = subprocess.run(
        ["/bin/sh", "-c", f'{done.stdout}\nprintf "%s" "$MLFLOW_TRACKING_PASSWORD"'],
        capture_output=True,
        text=True,
    )
    assert shell.stdout == stack.endpoints().password
    as_json = json.loads(mlplatform("env", "--json", "--data", str(stack.folder.root)).stdout)
    assert as_json == stack.endpoints().environment()


def test_the_folder_is_found_from_below(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / ".mlplatform").symlink_to(stack.folder.root)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    told = json.loads(mlplatform("status", "--json", cwd=below).stdout)
    assert told["healthy"] is True


def test_commands_without_a_stack_say_what_to_do(tmp_path: Path) -> None:
    for command in (["env"], ["doctor"]):
        done = mlplatform(*command, cwd=tmp_path)
        assert done.returncode == 1
        assert "there is no stack in" in done.stderr
        assert "mlplatform up" in done.stderr
        assert "Traceback" not in done.stderr
    logs = mlplatform("logs", cwd=tmp_path)
    assert (logs.returncode, logs.stdout) == (1, "")
    assert f"there is no stack in {tmp_path}" in logs.stderr
    assert mlplatform("down", cwd=tmp_path).stdout == "Nothing was running.\n"
    assert list(tmp_path.iterdir()) == []


def test_up_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    done = mlplatform("up", "--data", str(tmp_path))
    assert done.returncode == 1
    assert "is not empty and holds no stack" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_logs_print_and_follow(stack: Stack) -> None:
    data = ["--data", str(stack.folder.root)]
    assert "pid" in mlplatform("logs", "supervisor", *data).stdout
    assert "s3: " in mlplatform("logs", "-n", "3", *data).stdout
    follower = subprocess.Popen(
        [sys.executable, "-m", "mlflow_platform.cli", "logs", "-f", "-n", "0", "supervisor", *data],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(1.0)
        with stack.folder.log("supervisor").open("a") as log:
            log.write("a new line\n")
        assert follower.stdout is not None
        assert follower.stdout.readline() == "a new line\n"
    finally:
        follower.kill()
        follower.communicate()


def test_a_log_that_is_not_there_yet_is_said(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for name, said in (([], "the stack has no log yet"), (["mlflow"], "mlflow has no log yet")):
        done = mlplatform("logs", *name, "--data", str(tmp_path))
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr


def test_doctor_reports_as_json_and_by_exit_code(stack: Stack) -> None:
    done = mlplatform("doctor", "--json", "--data", str(stack.folder.root))
    told = json.loads(done.stdout)
    assert done.returncode == 0, told
    assert told["healthy"] is True
    bad = mlplatform("doctor", "--tracking-uri", stack.endpoints().tracking_uri)
    assert bad.returncode == 1, "no login was given"
    assert "FAULT login" in bad.stdout


def test_reset_asks_first(tmp_path: Path) -> None:
    data = tmp_path / "data"
    stack = Stack(data)
    try:
        up = mlplatform("up", "--port", "0", "--data", str(data))
        assert up.returncode == 0, up.stderr
        refused = mlplatform("reset", "--data", str(data), stdin="n\n")
        assert refused.returncode != 0
        assert str(data) in refused.stderr
        assert stack.status().healthy
        done = mlplatform("reset", "--yes", "--json", "--data", str(data))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"deleted": str(data)}
        assert not data.exists()
    finally:
        if data.exists():
            stack.reset()


DOCUMENTS = """\
apiVersion: mlplatform.io/v1alpha1
kind: MLflowUser
metadata: {name: local-commands-user}
spec:
  passwordSecretRef: {name: local-commands-user, key: password}
---
apiVersion: mlplatform.io/v1alpha1
kind: Experiment
metadata: {name: local-commands-experiment}
spec:
  description: applied by up
"""


def test_up_applies_documents_and_invents_their_secrets(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "objects.yaml").write_text(DOCUMENTS)
    (tmp_path / "mlplatform.toml").write_text('project = "local-commands"\n')
    done = mlplatform("up", str(tmp_path), "--data", str(stack.folder.root))
    assert done.returncode == 0, done.stdout + done.stderr
    secret = stack.folder.secrets / "local-commands-user" / "password"
    assert secret.stat().st_mode & 0o777 == 0o600
    value = secret.read_text()
    assert len(value) >= 32
    assert value not in done.stdout + done.stderr
    uri = stack.endpoints().tracking_uri
    login = {
        "MLFLOW_TRACKING_USERNAME": "local-commands-user",
        "MLFLOW_TRACKING_PASSWORD": value,
    }
    checked = subprocess.run(
        [sys.executable, "-m", "mlflow_platform.cli", *("doctor", "--json"), "--tracking-uri", uri],
        env={**os.environ, **login},
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout
    again = mlplatform("up", str(tmp_path), "--data", str(stack.folder.root))
    assert again.returncode == 0
    assert "nothing to change" in again.stdout
    assert secret.read_text() == value


def test_up_as_json_holds_what_the_apply_did(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(DOCUMENTS.replace("local-commands", "local-json"))
    (tmp_path / "mlplatform.toml").write_text('project = "local-json"\n')
    up = ("up", str(tmp_path), "--json", "--data", str(stack.folder.root))
    done = mlplatform(*up)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (server,) = told["servers"]
    assert (told["started"], told["applied"], server["server"]) == (False, [str(tmp_path)], "default")
    assert {(r["kind"], r["action"], r["outcome"]) for r in server["results"]} == {
        ("MLflowUser", "create", "done"),
        ("Experiment", "create", "done"),
    }
    (again,) = json.loads(mlplatform(*up).stdout)["servers"]
    assert again["results"] == []
    (tmp_path / "a.yaml").write_text("kind: Nothing\n")
    failed = mlplatform(*up)
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["error"]["problems"][0]["file"] == str(tmp_path / "a.yaml")


def test_two_ups_at_once_make_one_secret_and_each_object_once(stack: Stack, tmp_path: Path) -> None:
    """The documents' lock is held until both wait for it, so that both surely come at once."""
    (tmp_path / "a.yaml").write_text(DOCUMENTS.replace("local-commands", "local-twice"))
    (tmp_path / "mlplatform.toml").write_text('project = "local-twice"\n')
    up = ("up", str(tmp_path), "--json", "--data", str(stack.folder.root))
    with contextlib.ExitStack() as ending:
        with locked(stack.folder.documents_lock):
            both = [
                ending.enter_context(
                    subprocess.Popen(
                        [sys.executable, "-m", "mlflow_platform.cli", *up],
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        text=True,
                    )
                )
                for _ in range(2)
            ]
            for one in both:
                assert one.stderr is not None
                assert "another `mlplatform up` applies documents here" in one.stderr.readline()
        told = [one.communicate(timeout=300) for one in both]
    assert [one.returncode for one in both] == [0, 0], told
    results = sorted(len(json.loads(out)["servers"][0]["results"]) for out, _ in told)
    assert results == [0, 2], "the first makes both objects, the second finds them"
    login = {
        "MLFLOW_TRACKING_USERNAME": "local-twice-user",
        "MLFLOW_TRACKING_PASSWORD": (stack.folder.secrets / "local-twice-user" / "password").read_text(),
    }
    doctor = ("doctor", "--json", "--tracking-uri", stack.endpoints().tracking_uri)
    checked = subprocess.run(
        [sys.executable, "-m", "mlflow_platform.cli", *doctor],
        env={**os.environ, **login},
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("command", [["plan"], ["apply"], ["drift"]])
def test_who_is_no_administrator_is_told_so(stack: Stack, tmp_path: Path, command: list[str]) -> None:
    """MLflow would show such a login a part of what there is, and the plan would create the rest again."""
    documents = DOCUMENTS.replace("local-commands", "local-ordinary")
    (tmp_path / "a.yaml").write_text(documents)
    (tmp_path / "mlplatform.toml").write_text('project = "local-ordinary"\n')
    data = ("--data", str(stack.folder.root))
    assert mlplatform("up", str(tmp_path), *data).returncode == 0
    secret = stack.folder.secrets / "local-ordinary-user" / "password"
    login = {
        "MLFLOW_TRACKING_USERNAME": "local-ordinary-user",
        "MLFLOW_TRACKING_PASSWORD": secret.read_text(),
    }
    where = ("--tracking-uri", stack.endpoints().tracking_uri, "--secrets", str(stack.folder.secrets))
    done = subprocess.run(
        [sys.executable, "-m", "mlflow_platform.cli", *command, str(tmp_path), "--json", *where],
        env={**os.environ, **login},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "use the login of an administrator of that server" in done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "Fatal"
    assert "the login 'local-ordinary-user' is no administrator" in error["problems"][0]["what"]


class TestImport:
    """What is wrong with the options of `import` and `export`, and what import cannot bring along."""

    @pytest.fixture
    def login(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in stack.endpoints().environment().items():
            monkeypatch.setenv(name, value)

    @pytest.mark.parametrize("out", ["/proc/x", "file/x"])
    def test_a_folder_that_cannot_be_made(
        self,
        login: None,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        out: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("file").touch()
        assert run(["import", "--out", out, "--project", "research", "--json"]) == 1
        done = capsys.readouterr()
        assert f"error: cannot use {out}: " in done.err
        assert json.loads(done.out)["error"]["type"] == "BadInput"

    @pytest.mark.parametrize("command", [["import", "--out", "new"], ["export"]])
    def test_a_name_that_no_project_can_have(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        command: list[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert run([*command, "--project", 'A "b"']) == 1
        assert "cannot be a project's name" in capsys.readouterr().err
        assert not Path("new").exists()

    def test_what_is_left_out_is_said(
        self, login: None, stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Of an own user the server knows that there is a password, and not where its value is kept."""
        config = tmp_path / "config"
        config.mkdir()
        (config / "a.yaml").write_text(DOCUMENTS.replace("local-commands", "local-left"))
        (config / "mlplatform.toml").write_text('project = "local-left"\n')
        assert run(["up", str(config), "--data", str(stack.folder.root)]) == 0
        capsys.readouterr()
        assert run(["import", "--out", str(tmp_path / "a"), "--project", "local-left", "--json"]) == 0
        said = json.loads(capsys.readouterr().out)["left_out"]
        assert any("local-left-user" in sentence and "passwordSecretRef" in sentence for sentence in said)
        assert run(["import", "--out", str(tmp_path / "b"), "--project", "local-left"]) == 0
        assert capsys.readouterr().err == "".join(f"note: {sentence}\n" for sentence in said)


@pytest.mark.parametrize("command", ["up", "down", "status", "logs", "env", "reset", "doctor"])
def test_every_command_has_examples(command: str) -> None:
    assert "Example" in mlplatform(command, "--help").stdout
