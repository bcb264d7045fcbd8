"""What must stay: each rule of docs/retention.md against the real server."""

from __future__ import annotations

from mlflow_platform.model.retention_policy import RetentionPolicy
from tests.retention.conftest import World

OLD = {"rules": {"runs": {"olderThan": "90d"}}, "quarantine": "0s"}


def test_runs_that_a_version_names_stay(world: World) -> None:
    """By run_id; by a source that is the run's URI with no run_id; by a copied version's storage location;
    by its logged model. A deleted version protects nothing."""
    model = f"model-{world.experiment}"
    by_id, by_source, copied, by_model, deleted, free = (world.run() for _ in range(6))
    world.version(model, "s3://elsewhere/x", run_id=by_id)
    world.version(model, f"{world.uri(by_source)}/model")
    number = world.version(model, f"{world.uri(copied)}/model")
    world.version(f"copy-{model}", f"models:/{model}/{number}")
    world.call("model-versions/delete", "DELETE", name=model, version=number)
    world.version(model, f"models:/{world.logged_model(by_model)}")
    gone = world.version(model, f"{world.uri(deleted)}/model", run_id=deleted)
    world.call("model-versions/delete", "DELETE", name=model, version=gone)

    world.purge(**OLD)
    assert {r for r in (by_id, by_source, copied, by_model) if world.stage(r) == "active"} == {
        by_id,
        by_source,
        copied,
        by_model,
    }
    assert not world.exists(free)
    # A deleted version keeps its storage location (T), and no longer protects it.
    assert not world.exists(deleted)
    assert len(world.objects()) == 2 * 5


def test_versions_protect_runs_that_are_soft_deleted(world: World) -> None:
    """experiment-purge.sql destroyed a referenced run."""
    run = world.run()
    world.version(f"model-{world.experiment}", f"{world.uri(run)}/model")
    world.call("runs/delete", run_id=run)
    report = world.retain(rules={"runs": {"softDeletedFor": "0s"}})
    assert world.exists(run)
    assert report.kept["a model version names it"] == 1
    assert len(world.objects(run)) == 2


def test_runs_under_way_pinned_and_parents_stay(world: World) -> None:
    running = world.run(status="RUNNING")
    pinned = world.run(tags={"retention.pinned": "true"})
    not_pinned = world.run(tags={"retention.pinned": "false"})
    grandparent = world.run()
    parent = world.run(parent=grandparent)
    child = world.run(age=1, parent=parent)
    lonely = world.run()
    orphaned = world.run(parent=lonely)  # an old child goes along with its old parent

    report = world.purge(**OLD)
    alive = {
        r
        for r in (running, pinned, not_pinned, grandparent, parent, child, lonely, orphaned)
        if world.exists(r)
    }
    assert alive == {running, pinned, grandparent, parent, child}
    assert {world.stage(r) for r in alive} == {"active"}
    assert report.kept["parent of a live run"] == 2
    assert report.kept["pinned"] == 1


def test_a_pinned_experiment_stays_whole(world: World) -> None:
    run = world.run()
    world.call(
        "experiments/set-experiment-tag", experiment_id=world.experiment, key="retention.pinned", value="yes"
    )
    world.purge(**OLD)
    assert world.stage(run) == "active"
    world.call("experiments/delete", experiment_id=world.experiment)
    world.retain(rules={"experiments": {"softDeletedFor": "0s"}})
    assert world.exists(run)


def test_logged_models_in_use_keep_their_runs(world: World) -> None:
    maker = world.run()
    model = world.logged_model(maker)
    user = world.run(age=1)
    world.call("runs/log-inputs", run_id=user, datasets=[], models=[{"model_id": model}])
    measured_maker = world.run()
    measured = world.logged_model(measured_maker)
    measurer = world.run(age=1)
    world.call(
        "runs/log-metric", run_id=measurer, model_id=measured, key="acc", value=1.0, timestamp=1, step=0
    )

    world.purge(**OLD)
    assert world.stage(maker) == "active"
    assert world.stage(measured_maker) == "active"

    # When nobody uses it any more, it goes.
    world.call("runs/delete", run_id=user)
    world.call("runs/delete", run_id=measurer)
    world.purge(**OLD)
    assert not world.exists(maker)
    assert world.one("select count(*) from logged_models where model_id = %s", model) == 0
    assert not world.objects(f"models/{model}/")


def test_a_run_that_measures_a_registered_model_stays(world: World) -> None:
    maker, measurer = world.run(age=1), world.run()
    model = world.logged_model(maker)
    world.version(f"model-{world.experiment}", f"models:/{model}")
    world.call("runs/log-metric", run_id=measurer, model_id=model, key="acc", value=1.0, timestamp=1, step=0)
    world.purge(**OLD)
    assert world.stage(measurer) == "active"


def test_artifacts_that_may_be_somebody_elses_stay(world: World) -> None:
    """A location without the run's id, and one in a store that was not given: the run stays."""
    shared, elsewhere = world.run(), world.run()
    world.sql.execute(
        "update runs set artifact_uri = 'mlflow-artifacts:/0/shared' where run_uuid = %s", (shared,)
    )
    uri = f"s3://other/{elsewhere}/artifacts"
    world.sql.execute("update runs set artifact_uri = %s where run_uuid = %s", (uri, elsewhere))
    report = world.purge(**OLD)
    assert world.exists(shared)
    assert world.exists(elsewhere)
    assert report.kept["no store is given for s3://other"] == 1


def test_the_ledger_is_never_touched(world: World) -> None:
    policy = RetentionPolicy.model_validate(
        {
            "kind": "RetentionPolicy",
            "metadata": {"name": "all"},
            "spec": {
                "rules": {"experiments": {"softDeletedFor": "0s"}},
                "selector": {"experiments": ["mlplatform-*"]},
            },
        }
    )
    ledger = world.one("select experiment_id from experiments where name = 'mlplatform-ledger'")
    if ledger is None:
        ledger = world.call("experiments/create", name="mlplatform-ledger")["experiment_id"]
    world.call("experiments/delete", experiment_id=str(ledger))
    try:
        world.engine().run([policy])
        assert world.one("select count(*) from experiments where experiment_id = %s", int(ledger)) == 1
    finally:
        world.call("experiments/restore", experiment_id=str(ledger))
