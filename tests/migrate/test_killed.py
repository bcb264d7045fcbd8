"""kill -9 anywhere: the same command again finishes it, and nothing is there twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.migrate.conftest import Small, Target, clean
from tests.migrate.test_migrate import migrate

ROOT = Path(__file__).parents[2]


def soak(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.soak)


@pytest.mark.parametrize(
    ("at", "moment"),
    [
        soak("decided", "-"),
        soak("copy:1", "before"),
        ("copy:4", "after"),
        soak("copy:6", "after"),
        soak("artifacts copied", "-"),
        ("before commit", "-"),
        soak("moved", "-"),
    ],
)
def test_it_goes_on(target: Target, small: Small, tmp_path: Path, at: str, moment: str) -> None:
    # Its own id is not kept, so that the second command has to remember which one it got.
    done = subprocess.run(
        [sys.executable, "-m", "tests.migrate.dying", at, moment, small.address],
        cwd=ROOT,
        env={**clean(), "MLPLATFORM_DATA": str(target.stack.folder.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    seen = "select count(*) from runs r join experiments e using (experiment_id) where e.name like %s"
    assert target.one(seen, f"{small.prefix}%") == (3 if at == "moved" else 0), "all or nothing"
    between = target.client.create_experiment(f"{small.prefix}-between")
    moved = migrate(target, small.address, tmp_path / "work")
    (here,) = moved.experiments.values()
    assert here != between
    assert moved.left == []
    assert target.one(seen, f"{small.prefix}%") == 3
    wanted = {path.read_bytes() for path in (small.file.parent / "mlruns").rglob("file-*")}
    mine = [key for key, _ in target.objects() if key.startswith(f"{here}/")]
    assert len(mine) == len(wanted) == 6
    assert {target.store.read(key) for key in mine} == wanted
