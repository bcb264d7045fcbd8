"""What cannot come, or must not: one message or one line in the list, and never a silent merge."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from mlflow_platform.errors import BadInput
from mlflow_platform.migrate import homes, staged
from mlflow_platform.migrate.homes import Wishes
from mlflow_platform.migrate.report import Moved
from tests.migrate.conftest import Small, Target
from tests.migrate.test_migrate import migrate


def refused(target: Target, small: Small, work: Path, match: str, **more: str) -> None:
    counts = target.counts()
    with pytest.raises(BadInput, match=match):
        migrate(target, small.address, work, **more)
    assert target.counts() == counts


def left(moved: Moved) -> dict[str, int]:
    return {one.what: one.count for one in moved.left}


def test_a_name_that_is_taken(target: Target, small: Small, tmp_path: Path) -> None:
    target.client.create_experiment(f"{small.prefix}-0")
    target.client.create_registered_model(f"{small.prefix}-model")
    refused(target, small, tmp_path / "work", f"1 of experiments are here already: default/{small.prefix}-0")
    moved = migrate(target, small.address, tmp_path / "work", prefix="moved-")
    (here,) = moved.experiments.values()
    assert target.client.get_experiment(here).name == f"moved-{small.prefix}-0"
    version = target.client.get_model_version(f"moved-{small.prefix}-model", "1")
    assert version.source == f"mlflow-artifacts:/{here}/{version.run_id}/artifacts"
    assert target.client.get_experiment_by_name(f"{small.prefix}-0").experiment_id != here


def test_what_is_new_comes_and_what_differs_does_not(target: Target, small: Small, tmp_path: Path) -> None:
    first = migrate(target, small.address, tmp_path / "work")
    run = small.run()
    second = migrate(target, small.address, tmp_path / "work")
    assert (second.rows["runs"], second.objects, second.experiments) == (1, 2, first.experiments)
    small.do("update params set value = 'changed' where run_uuid = ?", run)
    refused(target, small, tmp_path / "work", f"1 rows of params are here with other values: p/{run}")
    small.do("update params set value = 'v' where run_uuid = ?", run)
    file = small.file.parent / "mlruns" / str(small.experiment) / run / "artifacts" / "file-0"
    file.write_bytes(b"changed")
    refused(target, small, tmp_path / "work", "is here already and differs from the source's")


def test_another_machines_database_of_the_same_name(target: Target, small: Small, tmp_path: Path) -> None:
    """Its experiments are others, whatever the ids that the first one's got."""
    first = migrate(target, small.address, tmp_path / "work")
    small.do("delete from params")
    small.do("delete from runs")
    small.do("update model_versions set run_id = null")
    run = small.run()
    small.do("update experiments set creation_time = 2 where experiment_id = 7")
    refused(target, small, tmp_path / "work", "are here with other values")
    second = migrate(target, small.address, tmp_path / "work", prefix="theirs-")
    assert set(first.experiments.values()).isdisjoint(second.experiments.values())
    assert target.client.get_run(run).info.experiment_id == second.experiments["7"]
    again = migrate(target, small.address, tmp_path / "work", prefix="theirs-")
    assert (again.rows.total(), again.experiments) == (0, second.experiments)


def test_ids_of_experiments(target: Target, small: Small, tmp_path: Path) -> None:
    highest = target.one("select last_value from experiments_experiment_id_seq")
    kept = highest + 50
    for table in ("experiments", "runs"):
        small.do(f"update {table} set experiment_id = ?", kept)
    small.experiment = kept
    small.do(
        "insert into experiments (experiment_id, name, lifecycle_stage, workspace)"
        " values (1, ?, 'active', 'default')",
        f"{small.prefix}-1",
    )
    moved = migrate(target, small.address, tmp_path / "work")
    assert moved.experiments == {str(kept): str(kept), "1": str(kept + 1)}
    assert int(target.client.create_experiment(f"{small.prefix}-later")) == kept + 2


def test_the_default_experiment(target: Target, small: Small, tmp_path: Path) -> None:
    small.do(
        "insert into experiments (experiment_id, name, lifecycle_stage, workspace)"
        " values (0, 'Default', 'active', 'default')"
    )
    assert "0" not in migrate(target, small.address, tmp_path / "work", dry=True).experiments, "it is empty"
    run = small.run(0)
    with target.sql.transaction(force_rollback=True):
        other = target.one("select max(experiment_id) from experiments")
        for table in (*homes._CONTENT, "experiment_tags"):
            target.sql.execute(f"update {table} set experiment_id = %s where experiment_id = 0", (other,))
        source = staged.Staged(small.address, small.file)
        with source.connect() as connection:
            arguments = (target.sql, connection, source.name, Wishes())
            target.sql.execute(homes._LEDGER)
            found = homes.decide(*arguments, granted=0, workspaces=set())
            assert (found.ids[0], found.taken) == (0, {0}), "here it is empty"
            target.sql.execute("insert into experiment_tags (key, value, experiment_id) values ('k', 'v', 0)")
            found = homes.decide(*arguments, granted=0, workspaces=set())
            assert (found.ids[0] > other, found.taken) == (True, set()), "here it is in use"
    moved = migrate(target, small.address, tmp_path / "work", prefix=f"{small.prefix}-")
    assert target.client.get_run(run).info.experiment_id == moved.experiments["0"]
    assert target.client.get_experiment(moved.experiments["0"]).name == f"{small.prefix}-Default"


def test_what_postgres_does_not_take(target: Target, small: Small, tmp_path: Path) -> None:
    runs = [small.run() for _ in range(2)]
    small.do("update params set value = ? where run_uuid = ?", "a\0b", runs[0])
    small.do("update params set value = ? where run_uuid = ?", "x" * 9000, runs[1])
    small.do("insert into params (key, value, run_uuid) values (?, 'v', ?)", "k" * 300, runs[0])
    small.do("insert into params (key, value, run_uuid) values ('p', 'v', ?)", uuid.uuid4().hex)
    moved = migrate(target, small.address, tmp_path / "work")
    assert [(one.what, one.why, one.count) for one in moved.left] == [
        ("values of params.value", "Postgres takes no NUL characters: they came as U+FFFD", 1),
        ("values of params.value", "longer than 8000 characters: cut there", 1),
        ("rows of params", "key has more than 250 characters", 1),
        ("rows of params", "what they belong to in runs is not there", 1),
    ]
    assert target.client.get_run(runs[0]).data.params == {"p": "a\ufffdb"}
    assert target.client.get_run(runs[1]).data.params == {"p": "x" * 8000}
    assert migrate(target, small.address, tmp_path / "work").rows.total() == 0


def test_what_stays_behind(target: Target, small: Small, tmp_path: Path) -> None:
    small.do(
        "insert into webhooks (webhook_id, name, url, status, secret, workspace)"
        " values ('w', 'w', 'https://example.com', 'ACTIVE', 'sealed', 'default')"
    )
    small.do(
        "insert into logged_models (model_id, experiment_id, name, artifact_location, creation_timestamp_ms,"
        " last_updated_timestamp_ms, status, lifecycle_stage) values (?, ?, 'm', ?, 1, 1, 2, 'active')",
        f"m-{uuid.uuid4().hex}",
        small.experiment,
        str(small.file.parent / "mlruns/7/models/gone"),
    )
    small.do("update model_versions set source = '/home/somebody/model'")
    small.do("update runs set artifact_uri = 'gs://bucket/' || run_uuid || '/artifacts'")
    moved = migrate(target, small.address, tmp_path / "work")
    assert left(moved) == {
        "webhooks": 1,
        "artifacts of runs": 3,
        "artifacts of logged models": 1,
        "model versions": 1,
    }
    assert target.one("select count(*) from webhooks where webhook_id = 'w'") == 0
    assert "gs:// cannot be read" in str(moved.left)


def test_artifacts_that_are_elsewhere(target: Target, small: Small, tmp_path: Path) -> None:
    """A server's proxy, whose store is given; and addresses of another machine."""
    folder = small.file.parent
    small.do("update runs set artifact_uri = 'mlflow-artifacts:/7/' || run_uuid || '/artifacts'")
    run = small.run()
    (folder / "mlruns").rename(folder / "kept")
    moved = migrate(target, small.address, tmp_path / "work", dry=True)
    assert left(moved) == {"artifacts of runs": 3}
    places = (str(folder / "kept"), f"{folder}/mlruns={folder}/kept")
    moved = migrate(target, small.address, tmp_path / "work", *places)
    assert (moved.objects, moved.left) == (8, [])
    (here,) = moved.experiments.values()
    assert (
        target.store.read(f"{here}/{run}/artifacts/file-0")
        == (folder / f"kept/7/{run}/artifacts/file-0").read_bytes()
    )


def test_workspaces(target: Target, small: Small, tmp_path: Path) -> None:
    for table in ("experiments", "registered_models", "model_versions"):
        small.do(f"update {table} set workspace = 'team'")
    refused(target, small, tmp_path / "work", "there is no workspace team here")
    moved = migrate(target, small.address, tmp_path / "work", workspace="default")
    (here,) = moved.experiments.values()
    assert target.one("select workspace from experiments where experiment_id = %s", int(here)) == "default"
    assert target.client.get_model_version(f"{small.prefix}-model", "1").run_id
