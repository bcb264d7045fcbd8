"""A platform is backed up, lost, and brought back in another one."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from mlflow_platform.backup.create import create
from mlflow_platform.backup.restore import restore
from tests.backup.conftest import World, contents
from tests.backup.databases import digests

#: Tables that a restore changes on purpose.
CHANGED = {
    "experiments",
    "runs",
    "logged_models",
    "model_versions",
    "trace_tags",
    "datasets",
    "jobs",
    "users",
}


@pytest.mark.parametrize(("here", "there"), [(False, False), (True, False), (False, True), (True, True)])
def test_everything_comes_back_elsewhere(make_world: Callable[..., World], here: bool, there: bool) -> None:
    world = make_world(shared=here)
    made = create(world.platform, world.vault)
    before = digests(world.platform.tracking)
    logins = digests(world.platform.auth or world.platform.tracking)
    objects = world.objects
    world.server.drop(world.platform.tracking)
    shutil.rmtree(world.folder)

    target = world.target(shared=there)
    done = restore(target, world.vault, made.name)

    assert done.objects == len(objects) == made.objects
    tracking, auth = target.platform.tracking, target.platform.auth or target.platform.tracking
    after = {**digests(tracking), **digests(auth)}
    for table, found in {**before, **logins}.items():
        if table in CHANGED:
            assert after[table][0] == (0 if table == "jobs" else found[0]), table
        else:
            assert after[table] == found, table
    root = target.platform.roots[0].uri.removeprefix("file://").removesuffix("/proxied")
    assert contents(type(world.folder)(root)) == objects
