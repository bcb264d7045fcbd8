"""The durable client among kills: what was acknowledged is on the server, once, whatever died in between."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.local import Stack
from tests.client.programs import Logging

pytest_plugins = ("tests.client.program_fixtures",)

#: Logs as fast as it can, and writes down the number of each metric whose call has returned.
_PROGRAM = """
acknowledged = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
with mlflow.start_run(run_name=sys.argv[2]) as run:
    os.write(acknowledged, f"run {run.info.run_id}\\n".encode())
    for step in range(int(sys.argv[3])):
        mlflow.log_metric("m", step * 0.5, step=step)
        os.write(acknowledged, b"%d\\n" % step)
os.write(acknowledged, b"ended\\n")
"""


def storm(
    logging: Logging,
    stack: Stack,
    plain: Any,
    folder: Path,
    *,
    programs: int,
    metrics: int,
    restarts: int,
    seed: int,
) -> None:
    """`programs` at once, all killed at random, their shipper too, and the server `restarts` times."""
    chance = random.Random(seed)
    folder.mkdir()
    # The experiment is there: what is tested is logging, not the names of those that lose a race.
    plain.create_experiment(logging.environment["EXPERIMENT"])
    running: dict[str, subprocess.Popen[str]] = {}
    for i in range(programs):
        variables = logging.variables(MLFLOW_EXPERIMENT_NAME=logging.environment["EXPERIMENT"])
        running[f"p{i}"] = start(logging, variables, folder / f"p{i}", metrics)
    left_to_kill = restarts
    while any(p.poll() is None for p in running.values()):
        time.sleep(chance.uniform(0.05, 0.5))
        progress = sum(f.stat().st_size for f in folder.iterdir())
        if progress < programs * 100:
            continue  # nobody has begun yet
        victim = chance.choice(sorted(running))
        if chance.random() < 0.1:
            running[victim].send_signal(signal.SIGKILL)
        if chance.random() < 0.2:
            logging.stop_shipper()
        if left_to_kill and chance.random() < 0.2:
            left_to_kill -= 1
            kill_server(stack)
    while left_to_kill:
        left_to_kill -= 1
        kill_server(stack)
    stack.up()
    logging.stop_shipper()
    done = logging.sync(timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    experiment = plain.get_experiment_by_name(logging.environment["EXPERIMENT"]).experiment_id
    runs = {r.info.run_name: r for r in plain.search_runs([experiment], max_results=1000)}
    assert len(plain.search_runs([experiment], max_results=1000)) == len(runs), "a run twice"
    for name in running:
        lines = (folder / name).read_text().split("\n")[:-1]
        steps = [int(line) for line in lines if line.isdecimal()]
        if not lines:
            continue  # killed before its run was made
        run = runs[name]
        assert lines[0] == f"run {run.info.run_id}"
        found = [m.step for m in plain.get_metric_history(run.info.run_id, "m")]
        assert len(found) == len(set(found)), "a metric twice"
        assert set(found) >= set(steps), "an acknowledged metric is lost"
        assert len(found) - len(steps) <= 1, "more than the one in flight"
        assert ("ended" in lines) <= (run.info.status == "FINISHED")


def start(logging: Logging, variables: dict[str, str], file: Path, metrics: int) -> subprocess.Popen[str]:
    code = "import os, sys\nimport mlflow\n" + _PROGRAM
    file.touch()
    return subprocess.Popen(
        [sys.executable, "-c", code, str(file), file.name, str(metrics)],
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def kill_server(stack: Stack) -> None:
    """Kill MLflow's server, if it runs; the stack's supervisor starts it again."""
    for process in stack.status().processes:
        if process.name == "mlflow" and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)


@pytest.fixture
def settled(stack: Stack) -> Iterator[Stack]:
    """The shared stack, whole again afterwards."""
    yield stack
    stack.up()


def test_kills_of_programs_shipper_and_server_lose_and_double_nothing(
    logging_to: Logging, settled: Stack, plain: Any, tmp_path: Path
) -> None:
    storm(logging_to, settled, plain, tmp_path / "acks", programs=4, metrics=3000, restarts=1, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_soak_of_twenty_programs_and_five_restarts(
    logging_to: Logging, settled: Stack, plain: Any, tmp_path: Path
) -> None:
    storm(logging_to, settled, plain, tmp_path / "acks", programs=20, metrics=50_000, restarts=5, seed=2)
