"""Retention on a database that is lost or restarted, of an unknown schema, or a copy of another."""

from __future__ import annotations

import os
import signal
import time

import pytest

from mlflow_platform.errors import BadInput, BrakeStopped
from mlflow_platform.local import Stack
from tests.faults.retention.conftest import RULES, everything, unaccounted, with_steps
from tests.retention.conftest import World, make_world


@pytest.mark.parametrize("moment", ["purge run: before commit", "purge run: committed", "objects deleted"])
def test_lost_connections_begin_again(world: World, moment: str) -> None:
    found = everything(world)
    once = iter([moment])

    def act(name: str) -> None:
        if name == moment and next(once, None):
            end = (
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'mlplatform'"
            )
            world.sql.execute(f"{end} and pid <> pg_backend_pid()")

    report = with_steps(world, act)
    assert not report.problems
    assert not world.exists(found["deleted"])
    assert unaccounted(world) == []
    assert world.stage(found["kept"]) == "active"
    assert not world.objects(found["deleted"])


def test_a_connection_lost_before_the_brake_does_not_release_it(world: World) -> None:
    runs = [world.run(objects=0) for _ in range(10)]
    once = iter([1])

    def act(name: str) -> None:
        if name == "roots claimed" and next(once, None):
            end = (
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'mlplatform'"
            )
            world.sql.execute(f"{end} and pid <> pg_backend_pid()")

    with pytest.raises(BrakeStopped):
        world.engine(act).run([world.policy(rules=RULES, brake={"maxPercent": 30})])
    assert next(once, None) is None
    assert {world.stage(run) for run in runs} == {"active"}


def test_postgres_restarted_in_the_middle(world: World, stack: Stack) -> None:
    found = everything(world)
    once = iter([1])

    def act(name: str) -> None:
        if name == "purge run: before commit" and next(once, None):
            pid = next(p.pid for p in stack.status().processes if p.name == "postgres")
            assert pid is not None
            os.kill(pid, signal.SIGQUIT)

    report = with_steps(world, act)
    for _ in range(600):
        if stack.status().healthy:
            break
        time.sleep(0.1)
    assert stack.status().healthy
    assert not report.problems
    for again in make_world(stack, world.name + "-after"):
        assert not again.exists(found["deleted"])
        assert again.stage(found["kept"]) == "active"
        assert again.stage(found["old"]) == "deleted"


def test_an_unknown_schema_is_refused(world: World) -> None:
    run = world.run()
    world.call("runs/delete", run_id=run)
    revision = world.one("select version_num from alembic_version")
    world.sql.execute("update alembic_version set version_num = 'abc'")
    try:
        with pytest.raises(BadInput, match="schema is abc"):
            world.retain(rules=RULES)
        with pytest.raises(BadInput, match="schema is abc"):
            world.engine().plan([world.policy(rules=RULES)])
    finally:
        world.sql.execute("update alembic_version set version_num = %s", (revision,))
    assert world.exists(run)


def test_a_copied_database_deletes_nothing_of_the_original(world: World) -> None:
    """A copy (here: the same database, told that it is one) has another id than the marker in the root."""
    run = world.run()
    world.call("runs/delete", run_id=run)
    world.retain(rules={"runs": {"softDeletedFor": "900d"}})
    installation = "select id, cluster, copied_at from mlplatform.installation"
    original = world.sql.execute(installation).fetchone()
    assert original is not None
    world.sql.execute("update mlplatform.installation set cluster = 'another/1'")
    try:
        with pytest.raises(BadInput, match="belongs to the installation"):
            world.retain(rules=RULES)
        copy = world.sql.execute(installation).fetchone()
        assert copy is not None
        assert copy[0] != original[0]
        assert copy[2] is not None
        assert world.exists(run)
        assert len(world.objects()) == 2
    finally:
        world.sql.execute(
            "update mlplatform.installation set id = %s, cluster = %s, copied_at = %s", original
        )
    assert not world.retain(rules=RULES).problems
    assert world.objects() == []
