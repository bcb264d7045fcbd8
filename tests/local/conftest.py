"""A stack that tests may break, and plain MLflow clients in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_platform.local import Stack
from tests.conftest import running

#: What a stranger's program does with nothing but the variables of `mlplatform env`.
_LOG = """
import pathlib, sys, tempfile, mlflow
mlflow.set_experiment(sys.argv[1])
with mlflow.start_run() as run:
    mlflow.log_metric("answer", 42.0)
    path = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    path.write_text(sys.argv[2])
    mlflow.log_artifact(str(path))
print(run.info.run_id)
"""
_READ = """
import sys, mlflow
run = mlflow.get_run(sys.argv[1])
print(run.data.metrics["answer"], mlflow.artifacts.load_text(run.info.artifact_uri + "/note.txt"))
"""


@pytest.fixture(scope="session")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose processes may be killed; a test that does brings it back with `up`."""
    yield from running(tmp_path_factory.mktemp("breakable") / "data")


def pids(stack: Stack) -> dict[str, int | None]:
    """Process name -> pid, as the status tells it."""
    return {p.name: p.pid for p in stack.status().processes}


def client(stack: Stack, program: str, *arguments: str) -> str:
    """Run a Python program with the stack's MLFLOW_* variables and no others; what it printed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "AWS_"))}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**kept, **stack.endpoints().environment(), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def log_run(stack: Stack, experiment: str, note: str) -> str:
    """Log a run with a metric and an artifact; its id."""
    return client(stack, _LOG, experiment, note)


def read_run(stack: Stack, run_id: str) -> str:
    """The run's metric and artifact, in one line."""
    return client(stack, _READ, run_id)


def mlplatform(*arguments: str, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, without the variables of this shell."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MLPLATFORM_"))}
    return subprocess.run(
        [sys.executable, "-m", "mlflow_platform.cli", *arguments],
        cwd=cwd,
        env=kept,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
    )
