"""Retention on a database that is lost or restarted, of an unknown schema, or a copy of another."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from mlflow_platform.adapters.files import FileStore
from mlflow_platform.errors import BadInput, BrakeStopped
from mlflow_platform.local import Stack
from mlflow_platform.retention.engine import Engine
from mlflow_platform.retention.roots import MARKER, Roots
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


def test_no_object_goes_without_the_lock_against_backups(world: World) -> None:
    """It is lost with a connection that does nothing else meanwhile: a firewall may have dropped it."""
    found = everything(world)
    once = iter([1])
    held: list[bool] = []
    lock = (
        "select l.pid from pg_locks l join pg_database d on d.oid = l.database"
        " where l.locktype = 'advisory' and d.datname = current_database()"
    )

    def act(name: str) -> None:
        if name == "purge run: committed" and next(once, None):
            world.sql.execute("select pg_terminate_backend(%s, 5000)", (world.one(lock),))
            assert world.one(lock) is None
        if name == "objects deleted":
            held.append(world.one(lock) is not None)

    report = with_steps(world, act)
    assert not report.problems
    assert held
    assert all(held)
    assert not world.objects(found["deleted"])


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


def test_what_takes_longer_than_the_statement_timeout_is_halved(world: World) -> None:
    """Eight runs of 0.3 s each, and one that is too much by itself: that one is told, the others go."""
    runs = [world.run(objects=0) for _ in range(9)]
    for run in runs:
        world.call("runs/delete", run_id=run)
    slow = runs[4]
    world.sql.execute(
        "create function slow() returns trigger language plpgsql as $$ begin"
        f" perform pg_sleep(case old.run_uuid when '{slow}' then 3 else 0.1 end); return old; end $$"
    )
    world.sql.execute("create trigger slow before delete on params for each row execute function slow()")
    try:
        report = world.retain(rules=RULES, statementTimeout="2s")
    finally:
        world.sql.execute("drop function slow() cascade")
    assert report.problems == [f"run {slow}: needs longer than spec.statementTimeout"]
    assert [run for run in runs if world.exists(run)] == [slow]
    assert world.retain(rules=RULES).total("purged") == {"run": 1}


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


def test_a_copy_marks_no_root_unless_it_is_told_to(world: World, tmp_path: Path) -> None:
    """A root without a marker may be that of an original which has never run retention."""
    run = world.run(objects=0)
    place = tmp_path / world.experiment / run / "artifacts"
    place.mkdir(parents=True)
    (place / "file").write_text("the original's")
    world.call("runs/delete", run_id=run)
    world.sql.execute("update runs set artifact_uri = %s where run_uuid = %s", (f"file://{place}", run))
    world.retain(rules={"runs": {"softDeletedFor": "900d"}})  # makes the journal, and marks the other root
    engine = Engine(world.database, Roots(world.store, [FileStore(str(tmp_path))]))
    world.sql.execute("update mlplatform.installation set copied_at = now()")
    try:
        with pytest.raises(BadInput, match="bears no marker: it may be the original's"):
            engine.run([world.policy(rules=RULES)])
        assert world.exists(run)
        assert not (tmp_path / MARKER).exists()
        engine.run([world.policy(rules=RULES)], claim_roots=True)
    finally:
        world.sql.execute("update mlplatform.installation set copied_at = null")
    assert not world.exists(run)
    assert not place.exists()
    assert not engine.run([world.policy(rules=RULES)]).problems  # once is enough
