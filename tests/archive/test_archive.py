"""Archive, destroy, restore: everything is as it was, by rows, by API and by digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.adapters.files import FileStore
from mlflow_platform.adapters.s3 import S3Store
from mlflow_platform.adapters.trees import Stat
from mlflow_platform.archive import manifest, parquet
from mlflow_platform.archive.create import archive
from mlflow_platform.archive.find import holding
from mlflow_platform.archive.manifest import Corrupted
from mlflow_platform.archive.restore import restore
from mlflow_platform.archive.verify import verify
from mlflow_platform.errors import BadInput
from mlflow_platform.local import Stack
from mlflow_platform.retention import journal
from mlflow_platform.retention.roots import Roots
from mlflow_platform.server.dump import Source
from tests.archive.conftest import Contents, fill
from tests.retention.conftest import World, make_world


def destroy(world: World) -> None:
    """All of the experiment, as a retention of everything does it."""
    world.call("experiments/delete", experiment_id=world.experiment)
    world.sql.execute(
        "update experiments set last_update_time = 1 where experiment_id = %s", (world.experiment,)
    )
    world.retain(rules={"experiments": {"softDeletedFor": "1d"}})
    assert not world.one("select count(*) from experiments where experiment_id = %s", world.experiment)
    assert world.objects() == []


def answers(world: World, run: str, model: str, trace: str) -> str:
    """What the server says."""
    history = [
        world.api.call("GET", "api/2.0/mlflow/metrics/get-history", params={"run_id": run, "metric_key": key})
        for key in ("m0", "loss", "gain", "pi", "odd NaN", "odd Infinity", "odd -Infinity")
    ]
    said = [
        world.api.call("GET", "api/2.0/mlflow/runs/get", params={"run_id": run}),
        world.api.call("GET", f"api/2.0/mlflow/logged-models/{model}"),
        world.api.call("GET", f"api/3.0/mlflow/traces/{trace}"),
        world.api.call("GET", "api/2.0/mlflow/artifacts/list", params={"run_id": run}),
        *history,
    ]
    return json.dumps(ordered(said), sort_keys=True)  # as text: NaN is no equal of itself


def ordered(value: Any) -> Any:
    """Lists in one order: MLflow asks Postgres for most without any."""
    if isinstance(value, dict):
        return {key: ordered(one) for key, one in value.items()}
    if isinstance(value, list):
        return sorted((ordered(one) for one in value), key=lambda one: json.dumps(one, sort_keys=True))
    return value


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
    assert restored.things == {"run": 1, "model": 1, "trace": 1, "version": 0}
    assert answers(world, run, model, trace) == said
    after = Contents(world)
    assert after.rows == before.rows
    assert after.objects == before.objects

    again = restore(world.database, roots, bucket, made.manifest)
    assert (again.things.total(), again.rows.total(), again.objects) == (0, 0, 0)
    assert again.there == {"run": 1, "model": 1, "trace": 1}


@pytest.fixture
def elsewhere(stack_with_workspaces: Stack, request: pytest.FixtureRequest) -> Iterator[World]:
    """Another platform: another database, server and bucket."""
    yield from make_world(stack_with_workspaces, f"archive/{request.node.name}-{time.time_ns()}")


def test_into_another_platform(world: World, elsewhere: World, bucket: S3Store) -> None:
    """Into the experiment of that name there; every URI follows, and every artifact opens there."""
    run, model, trace = fill(world)
    before, said = Contents(world), answers(world, run, model, trace)
    for _ in range(100):  # two young platforms count alike
        if elsewhere.experiment != world.experiment:
            break
        elsewhere.experiment = elsewhere.call("experiments/create", name=f"{elsewhere.name}-")[
            "experiment_id"
        ]
    elsewhere.call("experiments/update", experiment_id=elsewhere.experiment, new_name=world.name)
    made = archive(world.database, Roots(world.store), bucket, experiments=[world.name])
    restored = restore(elsewhere.database, Roots(elsewhere.store), bucket, made.manifest)
    assert restored.experiments == {world.experiment: elsewhere.experiment}
    location = "select artifact_location from experiments where experiment_id = %s"
    old, new = (w.one(location, w.experiment) for w in (world, elsewhere))

    def moved(text: str) -> str:
        return text.replace(f"{old}/", f"{new}/").replace(
            f'"experiment_id": "{world.experiment}"', f'"experiment_id": "{elsewhere.experiment}"'
        )

    expected = json.dumps(ordered(json.loads(moved(said))), sort_keys=True)
    assert answers(elsewhere, run, model, trace) == expected
    after = Contents(elsewhere)
    root = new.removeprefix("mlflow-artifacts:/")
    for key, body in before.objects.items():
        assert elsewhere.store.read(f"{root}/{key.partition('/')[2]}") == body, key
    for table in ("metrics", "params", "latest_metrics", "tags", "inputs", "input_tags", "spans"):
        assert len(after.rows[table]) == len(before.rows[table]), table
    assert after.rows["metrics"] == before.rows["metrics"]


def test_an_experiment_is_made_anew_where_it_is_not_known(world: World, folder: FileStore) -> None:
    """Not under its old id, unless it is the same installation: somebody's grant may name that."""
    run, _, _ = fill(world)
    before = Contents(world)
    made = archive(world.database, Roots(world.store), folder, experiments=[world.name])
    destroy(world)
    foreign = dataclasses.replace(made.manifest, installation=None)
    old = world.experiment
    world.experiment = restore(world.database, Roots(world.store), folder, foreign).experiments[old]
    assert world.experiment != old
    owner = "select value from experiment_tags where experiment_id = %s and key = 'owner'"
    assert world.one(owner, world.experiment) == "us"
    assert world.uri(run) == f"mlflow-artifacts:/{world.experiment}/{run}/artifacts"
    assert Contents(world).objects == {
        key.replace(f"{old}/", f"{world.experiment}/", 1): body for key, body in before.objects.items()
    }
    trace = "select count(*) from trace_tags where value like %s"
    assert world.one(trace, f"mlflow-artifacts:/{world.experiment}/traces/%") == 1


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_a_changed_byte_is_named(
    world: World, folder: FileStore, subtests: pytest.Subtests, every: bool
) -> None:
    """In any object of the archive; nothing of it is restored then: tried with one of each sort, in soak with
    each."""
    journal.open_journal(world.sql)
    run, _, _ = fill(world)
    made = archive(world.database, Roots(world.store), folder, experiments=[world.name])
    destroy(world)
    root = Path(folder.uri.removeprefix("file://"))
    files = [path for path in (root / "archives").rglob("*") if path.is_file()]
    assert len(files) == len(made.manifest.files) + made.manifest.objects
    right = {path: path.read_bytes() for path in [*files, root / manifest.key(made.manifest.id)]}

    def damage(path: Path) -> None:
        body = right[path]
        path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]) if body else b"x")

    listed = next(path for path in files if path.parent.name == "objects")
    others = [path for path in files if path != listed]
    for path in others:
        damage(path)
    found = list(verify(folder, made.manifest))
    assert len(found) == len(others)
    assert all(any(str(path) in text for text in found) for path in others)
    for path in others:
        path.write_bytes(right[path])

    names = ("runs", "spans", "objects", "run", "model", "trace")
    sorts = [next(path for path in files if f"/{name}/" in str(path)) for name in names]
    for path in files if every else sorts:
        with subtests.test(path=str(path.relative_to(root))):
            damage(path)
            try:
                (text,) = verify(folder, made.manifest)
                assert str(path) in text
                with pytest.raises(Corrupted, match=path.name):
                    restore(world.database, Roots(world.store), folder, made.manifest)
                assert not world.exists(run)
            finally:
                path.write_bytes(right[path])
                # The good ones may have come: were they still there, nobody would read them again.
                world.store.delete(world.store.page(f"{world.experiment}/").found)
    path = root / manifest.key(made.manifest.id)
    damage(path)
    with pytest.raises(Corrupted, match=path.name):
        manifest.read(folder, made.manifest.id)
    path.write_bytes(right[path])
    path = files[0]
    path.rename(root / "away")
    assert [path.name in found and "missing" in found for found in verify(folder, made.manifest)] == [True]
    (root / "away").rename(path)
    assert list(verify(folder, made.manifest)) == []
    restore(world.database, Roots(world.store), folder, made.manifest)
    assert world.exists(run)


def test_others_read_it(world: World, folder: FileStore) -> None:
    """pandas and pyarrow, by paths alone; values as Postgres has them."""
    import pandas
    import pyarrow.dataset

    run, model, _ = fill(world)
    made = archive(world.database, Roots(world.store), folder, runs=[run])
    tables = Path(folder.uri.removeprefix("file://")) / "archives" / made.manifest.id / "tables"
    metrics = pandas.read_parquet(tables / "metrics")
    query = "select key, value, timestamp, run_uuid, step, is_nan from metrics where run_uuid = %s"
    assert sorted(metrics.itertuples(index=False, name=None)) == sorted(world.sql.execute(query, (run,)))
    raw = metrics.set_index("key")["value"]
    assert (raw["odd Infinity"], raw["odd -Infinity"]) == (1.7976931348623157e308, -1.7976931348623157e308)
    assert list(metrics[metrics.is_nan]["key"]) == ["odd NaN"]
    scores = pandas.read_parquet(tables / "logged_model_metrics").set_index("metric_name")["metric_value"]
    assert scores["raw inf"] == float("inf")
    assert scores["raw nan"] != scores["raw nan"]
    runs = pyarrow.dataset.dataset(tables / "runs", format="parquet").to_table().to_pylist()
    assert [(one["run_uuid"], one["experiment_id"]) for one in runs] == [(run, int(world.experiment))]
    objects = pandas.read_parquet(tables / "objects")
    assert set(objects.owner) >= {run, model}
    deep = objects[objects.path == "deep/er/data.bin"].iloc[0]
    body = (tables.parent / deep.file).read_bytes()
    assert (len(body), hashlib.sha256(body).hexdigest()) == (deep.bytes, deep.sha256)


def test_the_pages_examples_read_it(world: World, folder: FileStore) -> None:
    """pandas and DuckDB, in the words of docs/archive.md, over archives of a policy's."""
    import duckdb

    for n in range(2):
        run = world.run()
        world.call("runs/log-metric", run_id=run, key="val/auc", value=n / 2, timestamp=1, step=1)
        made = archive(world.database, Roots(world.store), folder, runs=[run])
    page = (Path(__file__).parents[2] / "docs" / "archive.md").read_text("utf-8")
    here = folder.uri.removeprefix("file://")

    def block(language: str) -> str:
        (text,) = re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        assert "/backup/mlflow/archives/" in text
        found: str = text.replace("/backup/mlflow", here).replace(
            "archives/ID/", f"archives/{made.manifest.id}/"
        )
        return found

    found = dict(duckdb.sql(block("sql")).fetchall())
    assert found == {"m0": 0.0, "m1": 1.0, "m2": 2.0, "val/auc": 0.5}
    names: dict[str, Any] = {}
    *lines, last = block("python").strip().splitlines()
    exec("\n".join(lines), names)  # noqa: S102 - our own page
    assert eval(last, names).to_dict() == {run: 0.5}  # noqa: S307 - our own page
    query = "select key, value, timestamp, run_uuid, step, is_nan from read_parquet('{}') order by all"
    for table in ("metrics", "latest_metrics"):
        values = duckdb.sql(query.format(f"{here}/archives/{made.manifest.id}/tables/{table}/*.parquet"))
        rows = world.sql.execute(
            f"select key, value, timestamp, run_uuid, step, is_nan from {table} where run_uuid = %s", (run,)
        )
        assert sorted(values.fetchall()) == sorted(rows.fetchall())


def test_single_runs_come_back_alone(world: World, folder: FileStore) -> None:
    kept, other = world.run(), world.run()
    model = world.logged_model(kept)
    world.logged_model(other)
    world.trace()
    made = archive(world.database, Roots(world.store), folder, experiments=[world.name])
    destroy(world)
    assert holding(folder, [], [kept]) == {made.manifest.id: [kept]}
    with pytest.raises(BadInput, match="holds the run nowhere"):
        holding(folder, [], [kept, "nowhere"])
    found = restore(world.database, Roots(world.store), folder, made.manifest, runs=[kept])
    world.experiment = found.experiments[world.experiment]
    assert found.things == {"run": 1, "model": 1, "trace": 0, "version": 0}
    assert (world.exists(kept), world.exists(other)) == (True, False)
    assert (
        world.one("select count(*) from metrics where run_uuid = %s", kept) == 13
    )  # 12 of its own, one of its model
    assert world.one("select count(*) from input_tags") >= 1
    assert len(world.objects(kept)) == 2
    assert len(world.objects(f"models/{model}")) == 2
    assert len(world.objects()) == 4
    rest = restore(world.database, Roots(world.store), folder, made.manifest)
    assert rest.there == {"run": 1, "model": 1}
    assert rest.things == {"run": 1, "model": 1, "trace": 1, "version": 0}


def test_what_is_there_and_differs_stops_it(world: World, folder: FileStore) -> None:
    run, other = world.run(), world.run()
    made = archive(world.database, Roots(world.store), folder, experiments=[world.name])
    world.call("runs/set-tag", run_id=run, key="new", value="x")
    world.sql.execute("delete from latest_metrics where run_uuid = %s", (other,))
    before = Contents(world)
    with pytest.raises(BadInput, match="2 of these exist here and differ"):
        restore(world.database, Roots(world.store), folder, made.manifest)
    world.call("runs/delete-tag", run_id=run, key="new")
    assert restore(world.database, Roots(world.store), folder, made.manifest, runs=[run]).there["run"] == 1
    key = next(key for key in before.objects if run in key)
    body = before.objects[key] or b""
    with world.store.writing(key) as out:
        out.write(body + b"!")
    with pytest.raises(BadInput, match=f"{key} exists and differs"):
        restore(world.database, Roots(world.store), folder, made.manifest, runs=[run])


def test_another_schema_is_refused(world: World, folder: FileStore) -> None:
    made = archive(world.database, Roots(world.store), folder, runs=[world.run(objects=0)])
    other = dataclasses.replace(made.manifest, revision="000000000000", mlflow="9.9")
    with pytest.raises(BadInput, match="of schema 000000000000"):
        restore(world.database, Roots(world.store), folder, other)


def test_large_objects_and_many_rows_go_in_parts(
    world: World, bucket: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several Parquet files and row groups a table, several parts of an upload, one after the other."""
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 1000)
    monkeypatch.setattr(parquet, "_FILE_BYTES", 20_000)
    journal.open_journal(world.sql)
    run = world.run(objects=0)
    world.sql.execute(
        "insert into metrics select 'long', random(), s, %s, s, false from generate_series(1, 30000) s",
        (run,),
    )
    key = f"{world.experiment}/{run}/artifacts/large"
    body = os.urandom(20 * 1024 * 1024 + 1)
    with world.store.writing(key, len(body)) as out:
        out.write(body)
    before = Contents(world)
    made = archive(world.database, Roots(world.store), bucket, experiments=[world.name])
    assert len(made.manifest.of("metrics")) > 2
    destroy(world)
    restore(world.database, Roots(world.store), bucket, made.manifest)
    assert Contents(world).rows == before.rows
    assert world.store.read(key) == body


def test_what_is_written_to_meanwhile_is_named(world: World, folder: FileStore, tmp_path: Path) -> None:
    """In a folder, where a reader may see half of it; the rest is archived."""

    class Moving(FileStore):
        @contextmanager
        def reading(self, key: str, version: str = "") -> Iterator[tuple[Stat, Source]]:
            with super().reading(key, version) as found:
                yield found
                if key.endswith("growing"):
                    with (tmp_path / "root" / key).open("ab") as file:
                        file.write(b"more")

    run = world.run(objects=0)
    place = tmp_path / "root" / run / "artifacts"
    place.mkdir(parents=True)
    for name in ("growing", "still"):
        (place / name).write_bytes(b"content")
    world.sql.execute("update runs set artifact_uri = %s where run_uuid = %s", (str(place), run))
    roots = Roots(world.store, [Moving(str(tmp_path / "root"))])
    made = archive(world.database, roots, folder, runs=[run])
    (why,) = made.missing.values()
    assert list(made.missing) == [("run", run)]
    assert "changed" in why
    assert made.manifest.objects == 1
    assert list(verify(folder, made.manifest)) == []
