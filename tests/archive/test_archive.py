"""Archive, destroy, restore: everything is as it was, by rows, by API and by digest."""

from __future__ import annotations

from typing import Any

from mlflow_platform.adapters.s3 import S3Store
from mlflow_platform.archive import manifest
from mlflow_platform.archive.create import archive
from mlflow_platform.archive.restore import restore
from mlflow_platform.archive.verify import verify
from mlflow_platform.retention import journal
from mlflow_platform.retention.roots import Roots
from tests.archive.conftest import Contents, fill
from tests.retention.conftest import World


def destroy(world: World) -> None:
    """All of the experiment, as a retention of everything does it."""
    world.call("experiments/delete", experiment_id=world.experiment)
    world.sql.execute(
        "update experiments set last_update_time = 1 where experiment_id = %s", (world.experiment,)
    )
    world.retain(rules={"experiments": {"softDeletedFor": "1d"}})
    assert not world.one("select count(*) from experiments where experiment_id = %s", world.experiment)
    assert world.objects() == []


def answers(world: World, run: str, model: str, trace: str) -> list[Any]:
    """What the server says."""
    history = [
        world.api.call("GET", "api/2.0/mlflow/metrics/get-history", params={"run_id": run, "metric_key": key})
        for key in ("m0", "loss", "gain", "pi", "odd NaN", "odd Infinity", "odd -Infinity")
    ]
    return [
        world.api.call("GET", "api/2.0/mlflow/runs/get", params={"run_id": run}),
        world.api.call("GET", f"api/2.0/mlflow/logged-models/{model}"),
        world.api.call("GET", f"api/3.0/mlflow/traces/{trace}"),
        world.api.call("GET", "api/2.0/mlflow/artifacts/list", params={"run_id": run}),
        *history,
    ]


def test_all_is_as_it_was(world: World, bucket: S3Store) -> None:
    journal.open_journal(world.sql)  # so that the archive is known to be of this installation
    run, model, trace = fill(world)
    before, said = Contents(world), answers(world, run, model, trace)
    assert all(rows for table, rows in before.rows.items()), "every table is tried"
    roots = Roots(world.store)
    made = archive(world.database, roots, bucket, experiments=[world.name])
    assert made.missing == {}
    assert made.manifest.objects == len(before.objects)
    assert list(verify(bucket, manifest.read(bucket, made.manifest.id))) == []

    destroy(world)
    restored = restore(world.database, roots, bucket, manifest.read(bucket, made.manifest.id))
    assert restored.experiments == {world.experiment: world.experiment}
    assert restored.things == {"run": 1, "model": 1, "trace": 1}
    assert answers(world, run, model, trace) == said
    after = Contents(world)
    assert after.rows == before.rows
    assert after.objects == before.objects

    again = restore(world.database, roots, bucket, made.manifest)
    assert (again.things.total(), again.rows.total(), again.objects) == (0, 0, 0)
    assert again.there == {"run": 1, "model": 1, "trace": 1}
