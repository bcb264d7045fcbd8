"""kill -9 while a backup is made, pruned or restored: the same command again finishes it."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.backup.create import create
from mlflow_platform.backup.placing import NOTE
from mlflow_platform.backup.prune import Keep
from mlflow_platform.backup.restore import restore
from mlflow_platform.backup.verify import verify
from tests.backup.conftest import World, contents
from tests.backup.databases import digests, one

ROOT = Path(__file__).parents[2]


def killed(call: str, number: int, moment: str, action: str, *args: Any, **kwargs: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.backup.dying", call, str(number), moment],
        cwd=ROOT,
        input=pickle.dumps((action, args, kwargs)),
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, (done.stdout, done.stderr[-2000:])


def soak(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.soak)


RESTORING = [
    soak("write", 1, "after"),  # a root's note
    ("write", 5, "before"),  # an object, half written
    soak("write", 5, "after"),
    soak("commit", 1, "before"),  # the logins
    ("commit", 1, "after"),
    soak("commit", 2, "before"),  # everything else
    ("commit", 2, "after"),
    soak("delete", 1, "before"),  # the notes
    ("delete", 1, "after"),
    soak("finish", 1, "before"),
    ("finish", 1, "after"),  # the logins are noted as restored
    soak("finish", 2, "before"),
    soak("finish", 2, "after"),  # and so is everything else
]


@pytest.mark.parametrize(("call", "number", "moment"), RESTORING)
def test_a_restore_goes_on(world: World, call: str, number: int, moment: str) -> None:
    made = create(world.platform, world.vault)
    target = world.target()
    killed(call, number, moment, "restore", target, world.vault, made.name)
    if (call, number, moment) != ("finish", 2, "after"):
        restore(target, world.vault, made.name)
    assert contents(target.folder) == world.objects
    assert not list(target.folder.rglob(NOTE))
    tracking = digests(target.platform.tracking)
    for table in ("params", "metrics", "model_versions", "trace_info"):
        assert tracking[table][0] == digests(world.platform.tracking)[table][0]
    assert one(target.platform.tracking, "select count(*) from mlplatform.restored") == 1
    assert target.platform.auth is not None
    assert one(target.platform.auth, "select count(*) from users") == 2
    for database in (target.platform.tracking, target.platform.auth):
        assert one(database, "select count(*) from mlplatform.restored where finished is null") == 0


CREATING = [
    soak("write", 3, "before"),  # the dumps
    soak("write", 70, "after"),  # an object
    ("write", 78, "before"),  # the manifest or one of the last files before it
    soak("write", 77, "after"),
]


@pytest.mark.parametrize(("call", "number", "moment"), CREATING)
def test_a_backup_begins_anew_with_what_was_copied(world: World, call: str, number: int, moment: str) -> None:
    killed(call, number, moment, "create", world.platform, world.vault)
    assert world.vault.finished() == []
    time.sleep(1.1)  # names of backups have seconds
    copied = len(list(world.vault.tree.listed("objects/")))
    made = create(world.platform, world.vault, keep=Keep(last=1))
    assert made.copied == made.objects - copied
    assert not verify(world.vault, made.name).failed
    assert {s.key.split("/")[1] for s in world.vault.tree.listed("backups/")} == {made.name}


@pytest.mark.parametrize(
    ("number", "moment"),
    [soak(1, "before"), (1, "after"), soak(2, "before"), soak(2, "after"), soak(3, "before")],
)
def test_a_killed_deletion_leaves_whole_backups(world: World, number: int, moment: str) -> None:
    path = world.folder / "direct" / "changing"
    path.write_bytes(b"first")
    first = create(world.platform, world.vault)
    path.write_bytes(b"second")
    time.sleep(1.1)
    killed("delete", number, moment, "create", world.platform, world.vault, keep=Keep(last=1))
    there = world.vault.finished()
    assert (first.name in there) == ((number, moment) == (1, "before"))
    for name in there:
        assert not verify(world.vault, name).failed
    time.sleep(1.1)
    create(world.platform, world.vault, keep=Keep(last=1))
    assert len(world.vault.finished()) == 1
    assert len(list(world.vault.tree.listed("objects/"))) == 9
