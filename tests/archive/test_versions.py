"""Model versions of archived runs: they go and come back as the runs do, and what is newer here stays."""

from __future__ import annotations

import dataclasses
from typing import Any

from mlflow_platform.adapters.files import FileStore
from mlflow_platform.archive import manifest
from mlflow_platform.archive.create import archive
from mlflow_platform.archive.restore import restore
from mlflow_platform.archive.retained import Retained
from mlflow_platform.retention import journal
from mlflow_platform.retention.engine import Engine
from mlflow_platform.retention.report import Report
from mlflow_platform.retention.roots import Roots
from tests.archive.conftest import Contents
from tests.archive.test_archive import destroy, ordered
from tests.retention.conftest import World


def registered(world: World) -> tuple[str, str]:
    """An old run with a version that bears everything a version may, and a newer version; run and model."""
    run, model = world.run(tags={"note": "x"}), f"model-{world.experiment}"
    tags = [{"key": "a", "value": "b"}, {"key": "empty", "value": ""}]
    world.version(model, f"{world.uri(run)}/folder", tags=tags, description="the first", run_id=run)
    world.version(model, "s3://elsewhere/2")
    return run, model


def versions(world: World, model: str) -> dict[str, list[str]]:
    return {
        table: [
            row[0]
            for row in world.sql.execute(
                f"select t::text from {table} t where name = %s and version = 1 order by 1", (model,)
            )
        ]
        for table in ("model_versions", "model_version_tags")
    }


def said(world: World, model: str) -> Any:
    found = world.api.call("GET", "api/2.0/mlflow/model-versions/get", params={"name": model, "version": "1"})
    return ordered(found)


def retain(world: World, folder: FileStore, rules: dict[str, Any]) -> Report:
    policy = world.policy(rules=rules, archive={"destination": folder.uri})
    roots = Roots(world.store)
    archiver = Retained(world.database, roots, {policy.metadata.name: folder})
    return Engine(world.database, roots, archiver=archiver).run([policy])


def test_what_a_policy_purges_comes_back(world: World, folder: FileStore) -> None:
    """The version first: as long as it names the run, that is neither archived nor purged."""
    journal.open_journal(world.sql)
    run, model = registered(world)
    before, rows, answer = Contents(world), versions(world, model), said(world, model)
    assert [len(found) for found in rows.values()] == [1, 2]
    rules = {"runs": {"olderThan": "90d"}, "modelVersions": {"models": [model], "keepLast": 1}}
    report = retain(world, folder, rules)
    assert world.stage(run) == "active"
    assert list(manifest.ids(folder)) == []
    world.age_quarantine()
    report = retain(world, folder, rules)
    assert report.total("purged") == {"version": 1}
    assert not any(versions(world, model).values())
    (first,) = manifest.ids(folder)
    assert manifest.read(folder, first).counts == {"model_versions": 1, "model_version_tags": 2}
    for _ in range(2):
        report = retain(world, folder, rules)
        world.age_quarantine()
    assert report.total("purged") == {"run": 1}
    assert world.objects() == []

    for one in manifest.ids(folder):
        restore(world.database, Roots(world.store), folder, manifest.read(folder, one))
    assert (versions(world, model), said(world, model)) == (rows, answer)
    assert Contents(world).rows == before.rows
    assert Contents(world).objects == before.objects
    assert retain(world, folder, rules).empty, "what was restored is not chosen again"


def test_versions_go_with_an_archived_experiment(world: World, folder: FileStore) -> None:
    journal.open_journal(world.sql)
    run, model = registered(world)
    rows = versions(world, model)
    made = archive(world.database, Roots(world.store), folder, experiments=[world.name]).manifest
    assert (made.counts["model_versions"], made.counts["model_version_tags"]) == (1, 2)

    # What has changed since, or is deleted, is the registry's affair.
    world.call("model-versions/set-tag", name=model, version="1", key="a", value="new")
    found = restore(world.database, Roots(world.store), folder, made)
    assert (found.left_out["model_versions"], found.there["version"]) == (1, 0)
    assert found.there["run"] == 1
    assert versions(world, model) != rows
    world.call("model-versions/set-tag", name=model, version="1", key="a", value="b")

    gone = {table: f"delete from {table} where name = %s and version = 1" for table in rows}
    for table in reversed(list(gone)):
        world.sql.execute(gone[table], (model,))
    destroy(world)
    foreign = dataclasses.replace(made, installation=None)
    found = restore(world.database, Roots(world.store), folder, foreign, runs=[run])
    old, world.experiment = world.experiment, found.experiments[world.experiment]
    assert old != world.experiment
    assert found.things["version"] == 1
    (row,) = world.sql.execute(
        "select source, run_id from model_versions where name = %s and version = 1", (model,)
    )
    assert row == (f"{world.uri(run)}/folder", run)
    again = restore(world.database, Roots(world.store), folder, foreign)
    assert again.there == {"run": 1, "version": 1}

    world.call("registered-models/delete", "DELETE", name=model)
    destroy(world)
    found = restore(world.database, Roots(world.store), folder, foreign)
    assert (found.things["version"], found.left_out["model_versions"]) == (0, 1)
    assert world.exists(run)
