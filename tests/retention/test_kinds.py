"""Traces, logged models, versions and whole experiments."""

from __future__ import annotations

import pytest

from mlflow_platform.errors import BrakeStopped
from mlflow_platform.retention import journal
from tests.retention.conftest import World


def test_traces_go_by_age_with_spans_archives_and_artifacts(world: World) -> None:
    before = world.counts()
    old, pinned = world.trace(), world.trace(tags={"retention.pinned": "1"})
    young = world.trace(age=1)
    archive = f"mlflow-artifacts:/{world.experiment}/archive/{old}/artifacts"
    world.sql.execute(
        "insert into trace_tags values ('mlflow.trace.archiveLocation', %s, %s)", (archive, old)
    )
    world.put(archive, "payload.json")
    report = world.retain(rules={"traces": {"olderThan": "30d"}})
    assert report.total("purged") == {"trace": 1}
    assert report.experiments[int(world.experiment)].objects == 2
    left = world.sql.execute(
        "select request_id from trace_info where experiment_id = %s", (int(world.experiment),)
    ).fetchall()
    assert {row[0] for row in left} == {pinned, young}
    assert not [k for k in world.objects() if old in k]
    world.sql.execute("delete from trace_tags where key = 'retention.pinned'")
    world.retain(rules={"traces": {"olderThan": "0s"}})
    assert world.counts() == before
    assert not world.objects()


def test_a_trace_that_names_one_place_twice_holds_nothing_up(world: World) -> None:
    one, other = world.trace(), world.trace()
    world.sql.execute(
        "insert into trace_tags select 'mlflow.trace.archiveLocation', value, request_id from trace_tags"
        " where key = 'mlflow.artifactLocation' and request_id = %s",
        (one,),
    )
    report = world.retain(rules={"traces": {"olderThan": "30d"}})
    assert report.total("purged") == {"trace": 2}
    assert not [k for k in world.objects() if one in k or other in k]


def test_what_is_purged_again_elsewhere_is_deleted_there(world: World) -> None:
    """It came back from an archive meanwhile, and the artifacts have moved."""
    run = world.run()
    world.call("runs/delete", run_id=run)
    journal.open_journal(world.sql)
    before = journal.Entry("run", run, world.uri(run), int(world.experiment), "s3://an-older-one", "x/")
    journal.write(world.sql, "earlier", [before])
    world.sql.execute(
        "update mlplatform.purged set state = 'done', wait_until = now() + interval '1 day' where id = %s",
        (run,),
    )
    report = world.retain(rules={"runs": {"softDeletedFor": "0s"}})
    assert not report.problems
    assert not world.objects(run)


def test_logged_models_without_their_run(world: World) -> None:
    run = world.run(age=1, objects=0)
    before = world.counts()
    old, deleted, young = world.logged_model(), world.logged_model(), world.logged_model(age=1)
    used, registered = world.logged_model(), world.logged_model()
    world.call("runs/log-inputs", run_id=run, datasets=[], models=[{"model_id": used}])
    world.version(f"model-{world.experiment}", f"models:/{registered}")
    world.call(f"logged-models/{deleted}", "DELETE")
    rules = {"rules": {"loggedModels": {"olderThan": "90d", "softDeletedFor": "0s"}}}
    world.purge(**rules)
    left = world.sql.execute(
        "select model_id from logged_models where experiment_id = %s", (int(world.experiment),)
    ).fetchall()
    assert {row[0] for row in left} == {young, used, registered}
    assert not [k for k in world.objects() if old in k or deleted in k]
    assert world.counts()["runs"] == before["runs"]


def test_versions_beyond_the_newest_go_and_numbers_never_come_again(world: World) -> None:
    model = f"model-{world.experiment}"
    run = world.run(age=1)
    for _ in range(6):
        world.version(model, f"{world.uri(run)}/model", tags=[{"key": "a", "value": "b"}])
    world.call("registered-models/alias", name=model, alias="champion", version="1")
    world.call("model-versions/set-tag", name=model, version="2", key="retention.pinned", value="true")
    world.call(
        "model-versions/transition-stage",
        name=model,
        version="3",
        stage="Staging",
        archive_existing_versions=False,
    )
    rules = {"rules": {"modelVersions": {"models": [model], "keepLast": 1}}}
    first = world.retain(**rules)
    assert first.total("quarantined") == {"version": 2}
    assert world.one("select count(*) from model_versions where name = %s", model) == 6
    world.age_quarantine()
    world.call("registered-models/alias", name=model, alias="late", version="4")
    report = world.retain(**rules)
    assert report.total("purged") == {"version": 1}
    left = world.sql.execute(
        "select version from model_versions where name = %s order by 1", (model,)
    ).fetchall()
    assert [row[0] for row in left] == [1, 2, 3, 4, 6]
    world.call("model-versions/delete", "DELETE", name=model, version="6")
    world.purge(**rules)
    assert world.version(model, f"{world.uri(run)}/model") == "7"
    assert len(world.objects()) == 2, "objects never go with a version"


def test_a_deleted_experiment_goes_whole_or_not_at_all(world: World) -> None:
    before = world.counts()
    tables = ("experiments", "experiment_tags")
    other = world.call("experiments/create", name=f"{world.name}-other")["experiment_id"]
    protected = world.run(age=1, experiment=other)
    world.version(f"model-{other}", f"{world.uri(protected)}/model")
    for _ in range(3):
        run = world.run(age=1)
        world.logged_model(run)
        world.trace(age=1)
    world.call("experiments/set-experiment-tag", experiment_id=world.experiment, key="a", value="b")
    selector = {"experiments": [world.name, f"{world.name}-other"]}
    rules = {"rules": {"experiments": {"softDeletedFor": "0s"}}, "selector": selector}
    world.retain(**rules)
    assert world.stage(run) == "active", "an experiment that is not deleted stays"
    for one in (world.experiment, other):
        world.call("experiments/delete", experiment_id=one)
    report = world.retain(**rules)
    assert not report.problems
    assert report.total("purged") == {"run": 3, "trace": 3, "experiment": 1}
    assert world.exists(protected)
    assert not world.objects()
    after = world.counts()
    assert after["experiments"] == before["experiments"]
    changed = {t: after[t] - before[t] for t in after if after[t] != before[t] and t not in tables}
    one_run = {"runs": 1, "metrics": 12, "latest_metrics": 3, "params": 3, "tags": changed["tags"]}
    one_run |= dict.fromkeys(("datasets", "inputs", "input_tags", "model_versions", "registered_models"), 1)
    assert changed == one_run


def test_keep_best_and_keep_last(world: World) -> None:
    scores = [0.1, 0.9, 0.5, 0.7, 0.3]
    runs = [world.run(age=10 - i, metric=score) for i, score in enumerate(scores)]
    without = world.run(age=20)
    nan = world.run(age=30)
    world.call("runs/log-metric", run_id=nan, key="score", value="NaN", timestamp=1, step=0)
    rules = {"runs": {"keepLast": 1, "keepBest": {"metric": "score", "count": 2}}}
    world.retain(rules=rules)
    active = [i for i, r in enumerate([*runs, without, nan]) if world.stage(r) == "active"]
    assert active == [1, 3, 4]  # the two best, and the newest
    world.retain(rules={"runs": {"keepBest": {"metric": "score", "count": 1, "order": "min"}}})
    assert [i for i, r in enumerate(runs) if world.stage(r) == "active"] == [4]


def test_the_brake_stops_before_the_first_write(world: World) -> None:
    runs = [world.run(objects=0) for _ in range(12)]
    policy = world.policy(rules={"runs": {"olderThan": "90d"}}, brake={"maxPercent": 50})
    with pytest.raises(BrakeStopped) as stopped:
        world.engine().run([policy])
    assert {world.stage(r) for r in runs} == {"active"}
    with pytest.raises(BrakeStopped):
        world.engine().run([policy], allowed="0" * 12)
    report = world.engine().run([policy], allowed=stopped.value.hash)
    assert report.total("quarantined") == {"run": 12}
    world.age_quarantine()
    # What passed the brake when it was chosen need not pass it again.
    assert world.engine().run([policy]).total("purged") == {"run": 12}
