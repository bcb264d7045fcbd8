"""A platform is backed up and brought back in another one."""

from __future__ import annotations

from mlflow_platform.backup.create import create
from mlflow_platform.backup.restore import restore
from mlflow_platform.backup.vault import Vault
from mlflow_platform.local import Stack
from tests.backup.conftest import platform_of, target_of
from tests.retention.conftest import World, make_world


def test_everything_comes_back(world: World, other: Stack, vault: Vault) -> None:
    run = world.run()
    model = world.logged_model(run)
    trace = world.trace()
    made = create(platform_of(world.stack), vault)
    done = restore(target_of(other), vault, made.name)
    assert done.rows == made.rows
    for there in make_world(other, "new"):
        assert there.exists(run)
        assert int(there.experiment) > int(world.experiment)
        assert there.counts()["params"] == world.counts()["params"]
