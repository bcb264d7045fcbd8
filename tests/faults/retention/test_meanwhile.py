"""What users and servers do while retention is at work: restore, register, upload and log late."""

from __future__ import annotations

import threading

import pytest

from mlflow_platform.errors import Rejected
from tests.faults.retention.conftest import (
    RULES,
    WHOLE,
    deleted_experiment,
    prefix,
    until_blocked,
    with_steps,
)
from tests.retention.conftest import World


def test_an_experiment_stays_whole_when_a_version_comes_first(world: World) -> None:
    """Registered from one of its runs after it was chosen: what went before in the transaction comes back."""
    found = deleted_experiment(world)
    before, objects = world.counts(), world.objects()
    model = f"model-{world.experiment}"
    once = iter([1])

    def act(step: str) -> None:
        if step == "purge trace: committed" and next(once, None):
            world.version(model, f"{world.uri(found['runs'][1])}/model")

    policy = world.policy(rules=WHOLE, selector={"experiments": [f"{prefix(world)}-*"]})
    report = world.engine(act).run([policy])
    after = world.counts()
    changed = {t: n - before[t] for t, n in after.items() if n != before[t]}
    assert changed == {"registered_models": 1, "model_versions": 1}
    assert world.objects() == objects
    assert report.kept["a model version names it"]


def test_a_run_restored_before_its_rows_commit_survives_whole(
    world: World, subtests: pytest.Subtests
) -> None:
    run = world.run()
    model = world.logged_model(run)
    rows = {t: world.counts()[t] for t in ("metrics", "params", "tags", "inputs", "logged_model_metrics")}
    moments: list[str] = []
    world.call("runs/delete", run_id=run)
    world.call("runs/restore", run_id=run)
    world.call("runs/delete", run_id=run)
    policy = {"runs": {"softDeletedFor": "0s"}}

    def note(name: str) -> None:
        moments.append(name)
        if name == "purge run: begin":  # the last moment at which nothing is locked
            world.call("runs/restore", run_id=run)

    world.engine(note).run([world.policy(rules=policy)])
    assert "purge run: before commit" in moments
    for moment in moments[: moments.index("purge run: begin") + 1]:
        with subtests.test(moment=moment):
            if world.stage(run) == "active":
                world.call("runs/delete", run_id=run)

            def restore(name: str, moment: str = moment) -> None:
                if name == moment and world.stage(run) == "deleted":
                    world.call("runs/restore", run_id=run)

            world.engine(restore).run([world.policy(rules=policy)])
            assert world.stage(run) == "active"
            assert len(world.objects(run)) == 2
            assert len(world.objects(f"models/{model}")) == 2
            assert {t: world.counts()[t] for t in rows} == rows


def test_a_restore_that_comes_too_late_is_refused_and_nothing_is_half_gone(world: World) -> None:
    run = world.run()
    world.call("runs/delete", run_id=run)
    outcome: list[BaseException | None] = []

    def restore() -> None:
        try:
            world.call("runs/restore", run_id=run)
            outcome.append(None)
        except Rejected as error:
            outcome.append(error)

    thread = threading.Thread(target=restore)

    def act(name: str) -> None:
        if name == "purge run: before commit":
            thread.start()
            until_blocked(world)

    with_steps(world, act)
    thread.join(30)
    assert isinstance(outcome[0], Rejected), "it is told that there is no such run"
    assert not world.exists(run)
    assert world.objects() == []


def test_a_version_registered_while_its_run_is_purged(world: World) -> None:
    """Before the rows are locked: the run stays. While they are being deleted: it waits for the commit, and
    then its objects stay and are reported."""
    early, late = world.run(), world.run()
    model = f"model-{world.experiment}"
    world.call("registered-models/create", name=model)
    uris = {run: world.uri(run) for run in (early, late)}
    for run in (early, late):
        world.call("runs/delete", run_id=run)

    def register(run: str) -> None:
        world.version(model, f"{uris[run]}/model")

    thread = threading.Thread(target=register, args=(late,))

    def act(name: str) -> None:
        if name == "purge run: begin":
            register(early)
        if name == "purge run: before commit":
            thread.start()
            until_blocked(world)
        if name == "purge run: committed":
            thread.join(30)

    report = with_steps(world, act)
    assert world.stage(early) == "deleted"
    assert report.kept["a model version names it"] == 1
    assert not world.exists(late)
    assert len(world.objects(late)) == 2, "a version names them now"
    assert any(late in note for note in report.notes)
    world.sql.execute("update mlplatform.purged set next_at = now()")
    world.retain(rules=RULES)
    assert len(world.objects(late)) == 2
    assert world.one("select state from mlplatform.purged where id = %s", late) == "claimed"


def test_late_uploads_inputs_and_spans_are_found_an_hour_and_a_day_later(world: World) -> None:
    run, trace = world.run(), world.trace()
    uri = world.uri(run)
    before = {t: n for t, n in world.counts().items() if t in ("inputs", "trace_info", "spans", "trace_tags")}
    world.call("runs/delete", run_id=run)
    world.retain(rules=RULES)
    assert world.objects() == []

    def come_late() -> None:
        world.put(uri, "late")
        world.sql.execute(
            "insert into inputs (input_uuid, source_type, source_id, destination_type, destination_id)"
            " values (gen_random_uuid()::text, 'DATASET', 'd', 'RUN', %s)",
            (run,),
        )
        world.sql.execute(
            "insert into trace_info (request_id, experiment_id, timestamp_ms, status)"
            " values (%s, %s, 1, 'OK')",
            (trace, int(world.experiment)),
        )
        world.span(trace)

    for hours in (1, 24):
        come_late()
        world.retain(rules={"runs": {"softDeletedFor": "0s"}})
        assert len(world.objects()) == 1, "it is not looked at yet"
        world.sql.execute(
            "update mlplatform.purged set purged_at = purged_at - %s * interval '1 hour',"
            " next_at = next_at - %s * interval '1 hour' where id = any(%s)",
            (hours, hours, [run, trace]),
        )
        report = world.retain(rules={"runs": {"softDeletedFor": "0s"}})
        assert not report.problems
        assert world.objects() == []
        after = world.counts()
        assert all(after[t] < n for t, n in before.items())
    assert world.one("select count(*) from mlplatform.purged where id = %s and state = 'done'", run) == 1
