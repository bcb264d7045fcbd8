"""The commands as a user runs them, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlflow_platform.local import Stack
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


@pytest.mark.parametrize("command", ["up", "down", "status", "logs", "env", "reset", "doctor"])
def test_every_command_has_examples(command: str) -> None:
    assert "Example" in mlplatform(command, "--help").stdout
