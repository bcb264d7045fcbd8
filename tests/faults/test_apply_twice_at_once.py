"""Two applies of one folder at the same time: one waits for the other, and nothing is doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlflow_platform.apply.lock import ApplyLock
from mlflow_platform.cli.root import run
from mlflow_platform.cli.transfer import open_target
from mlflow_platform.errors import Blocked
from tests.faults.test_apply_killed import configuration, login, state

__all__ = ["login"]


def test_nothing_is_doubled(login: None, tmp_path: Path) -> None:
    assert run(["apply", *configuration(tmp_path / "once", "k-once")]) == 0
    arguments = configuration(tmp_path / "twice", "k-twice")
    command = [sys.executable, "-m", "mlflow_platform.cli", "apply", *arguments]
    both = [
        subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert not any("failed" in err for _, err in said), said
    assert state("k-twice") == state("k-once")
    assert run(["plan", *arguments]) == 0


def test_the_second_waits_and_gives_up_after_its_patience(login: None) -> None:
    api = open_target(None, "project:none").api
    told: list[str] = []
    with ApplyLock(api, "project:lock-a", None):
        with ApplyLock(api, "project:lock-b", None):
            pass  # another owner does not wait
        impatient = ApplyLock(api, "project:lock-a", None, waiting=told.append, patience=1)
        with pytest.raises(Blocked, match="another apply of project:lock-a is at work"), impatient:
            pass
    assert len(told) == 1
    with ApplyLock(api, "project:lock-a", None, patience=1):
        pass


def test_the_lock_of_a_killed_process_is_broken_at_once(login: None) -> None:
    program = (
        "import time\n"
        "from mlflow_platform.apply.lock import ApplyLock\n"
        "from mlflow_platform.cli.transfer import open_target\n"
        "with ApplyLock(open_target(None, 'project:none').api, 'project:lock-dead', None):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGKILL)
    with ApplyLock(open_target(None, "project:none").api, "project:lock-dead", None, patience=5):
        pass


def test_a_holder_whose_lock_was_taken_away_is_told(login: None) -> None:
    api = open_target(None, "project:none").api
    with ApplyLock(api, "project:lock-lost", None) as lock:
        name = lock._name
        api.call("DELETE", "api/2.0/mlflow/registered-models/delete", json={"name": name})
        deadline = time.monotonic() + 60
        while not lock.lost.is_set():
            assert time.monotonic() < deadline
            time.sleep(0.1)
