"""Retention killed at every step: every object has a row or a journal entry, what must stay is whole, and the
next run finishes."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.faults.dying_runs import Dying
from tests.faults.retention.conftest import RULES, WHOLE, deleted_experiment, everything, prefix, unaccounted
from tests.retention.conftest import World, random_id


@pytest.fixture
def dying() -> Iterator[Dying]:
    program = Dying("tests.faults.dying_retention")
    try:
        yield program
    finally:
        program.close()


#: Without the sweep: around each commit, and between the store and its note.
_TELLING = (": before commit", ": committed", "objects deleted")
sweep = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)])


def points(steps: list[str], *, every: bool) -> list[int]:
    """Numbers of the steps to be killed at."""
    return [i for i, name in enumerate(steps, 1) if every or name.endswith(_TELLING)]


@sweep
def test_killed_at_every_step(world: World, dying: Dying, subtests: pytest.Subtests, every: bool) -> None:
    """Whatever step is the last: every object has a row or an entry, what must stay is whole, and the next
    run finishes."""
    again = "update mlplatform.purged set next_at = now() where state = 'watched'"
    world.retain(rules=RULES)  # makes journal, marker and indexes
    before = world.counts()
    kept = everything(world)["kept"]
    clean = dying.run(world, 0, RULES)
    assert clean["code"] == 0
    steps = clean["steps"]
    names = {name.rsplit(":", 1)[0] for name in steps}
    assert {"quarantine run", "purge run", "purge logged model", "purge trace"} <= names
    world.sql.execute(again)
    steps_again = dying.run(world, 0, RULES)["steps"]
    assert "looking again: committed" in steps_again
    world.age_quarantine()
    world.call("runs/delete", run_id=kept)
    world.retain(rules=RULES)
    assert world.objects() == []

    for point in points(steps, every=every):
        with subtests.test(point=point, step=steps[point - 1]):
            found = everything(world)
            assert dying.run(world, point, RULES)["code"] == -signal.SIGKILL
            assert unaccounted(world) == []
            assert world.stage(found["kept"]) == "active"
            if world.stage(found["old"]) == "deleted":
                held = "select stamp = deleted_time from mlplatform.quarantine join runs on id = run_uuid"
                held += " where id = %s"
                assert world.one(held, found["old"])
            assert not world.retain(rules=RULES).problems
            world.age_quarantine()
            assert not world.retain(rules=RULES).problems
            assert {key.split("/")[1] for key in world.objects()} == {found["kept"]}
            world.call("runs/delete", run_id=found["kept"])
            world.retain(rules=RULES)
            assert world.objects() == []
            after = world.counts()
            assert {t: n - before[t] for t, n in after.items() if n != before[t]} in ({}, {"datasets": 1})
    for point in points(steps_again, every=every):
        with subtests.test(point=point, again=steps_again[point - 1]):
            run = world.run()
            world.call("runs/delete", run_id=run)
            uri = world.uri(run)
            world.retain(rules=RULES)
            world.put(uri, "late")
            world.sql.execute(again)
            dying.run(world, point, RULES)
            world.sql.execute(again)
            world.retain(rules=RULES)
            assert world.objects() == []


@sweep
def test_killed_while_an_experiment_goes(
    world: World, dying: Dying, subtests: pytest.Subtests, every: bool
) -> None:
    """It is there as a whole or not at all, and the next run finishes it. Where the user restores it in
    between, nothing of it is missing."""
    world.retain(rules=WHOLE)
    before = world.counts()
    selected = {"experiments": [f"{prefix(world)}-*"]}
    deleted_experiment(world)
    steps = dying.run(world, 0, WHOLE, selected)["steps"]
    assert "purge experiment: committed" in steps
    for point in points(steps, every=every):
        if not every and steps[point - 1].startswith(("purge trace", "purge logged model")):
            continue  # as for runs: within the same transaction
        with subtests.test(point=point, step=steps[point - 1]):
            deleted_experiment(world)
            whole = world.counts()
            assert dying.run(world, point, WHOLE, selected)["code"] == -signal.SIGKILL
            assert world.counts() in (whole, before)
            assert unaccounted(world) == []
            assert not world.retain(rules=WHOLE, selector=selected).problems
            assert world.objects() == []
            after = world.counts()
            assert {t: n - before[t] for t, n in after.items() if n != before[t]} == {}
    with subtests.test(restored=True):
        found = deleted_experiment(world)
        whole, objects = world.counts(), world.objects()
        dying.run(world, steps.index("purge run: committed") + 1, WHOLE, selected)
        world.call("experiments/restore", experiment_id=world.experiment)
        assert not world.retain(rules=WHOLE, selector=selected).problems
        assert [world.stage(run) for run in found["runs"]] == ["active", "active"]
        assert (world.counts(), world.objects()) == (whole, objects)


@sweep
def test_killed_while_versions_and_orphans_go(
    world: World, dying: Dying, subtests: pytest.Subtests, every: bool
) -> None:
    """The next run finishes it; what is not chosen stays."""
    model, kept = f"model-{world.experiment}", world.run(age=1)
    rules = {"modelVersions": {"models": [model], "keepLast": 1}, "orphans": {}}
    world.version(model, "s3://elsewhere/0")

    def prepare() -> None:
        world.version(model, "s3://elsewhere/1", tags=[{"key": "a", "value": "b"}])
        world.retain(rules=rules)
        world.age_quarantine()
        for one in (random_id(world.sql), f"models/m-{random_id(world.sql)}"):
            world.put(f"mlflow-artifacts:/{world.experiment}/{one}/artifacts", "a")

    prepare()
    steps = dying.run(world, 0, rules)["steps"]
    assert {"purge version: committed", "orphans: committed"} <= set(steps)
    for point in points(steps, every=every):
        with subtests.test(point=point, step=steps[point - 1]):
            prepare()
            assert dying.run(world, point, rules)["code"] == -signal.SIGKILL
            assert dying.run(world, 0, rules)["code"] == 0
            assert world.one("select count(*) from model_versions where name = %s", model) == 1
            tags = "select count(*) from model_version_tags where name = %s"
            assert world.one(tags, model) == 1
            assert world.objects() == world.objects(kept)
            assert len(world.objects(kept)) == 2
