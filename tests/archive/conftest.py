"""Worlds of tests/retention, with folders and buckets to archive to."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.adapters.files import FileStore
from mlflow_platform.adapters.s3 import S3Login, S3Store
from mlflow_platform.local import Stack
from tests.retention.conftest import World, make_world


@pytest.fixture
def world(stack: Stack, request: pytest.FixtureRequest) -> Iterator[World]:
    """An experiment of the test's own."""
    yield from make_world(stack, f"archive/{request.node.name}-{time.time_ns()}")


@pytest.fixture
def folder(tmp_path: Path) -> FileStore:
    """A folder to archive to."""
    (tmp_path / "archives").mkdir()
    return FileStore(str(tmp_path / "archives"))


@pytest.fixture
def bucket(world: World) -> Iterator[S3Store]:
    """A prefix of a bucket to archive to, beside the artifacts of the experiment."""
    where = world.stack.endpoints()
    login = S3Login(where.s3_endpoint, "us-east-1", where.s3_access_key, where.s3_secret_key)
    store = S3Store(f"s3://{where.s3_bucket}/archives-{world.experiment}", login)
    yield store
    store.close()


def fill(world: World) -> tuple[str, str, str]:
    """A run, a logged model and a trace with everything that MLflow stores about them."""
    run = world.run(status="FINISHED", tags={"note": 'quotes " and \n lines, ümläute', "empty": ""})
    model = world.logged_model(run)
    trace = world.trace(tags={"mlflow.note": "x"})
    raw = [("loss", 1.7976931348623157e308), ("gain", -1.7976931348623157e308), ("pi", 0.1 + 0.2)]
    for step, (key, value) in enumerate(raw):
        world.sql.execute(
            "insert into metrics (key, value, timestamp, run_uuid, step, is_nan)"
            " values (%s, %s, 1, %s, %s, false)",
            (key, value, run, -step),
        )
    # By the API: MLflow stores NaN as 0 with a mark, infinities as the largest doubles.
    for value in ("NaN", "Infinity", "-Infinity"):
        world.call("runs/log-metric", run_id=run, key=f"odd {value}", value=value, timestamp=2, step=7)
    for value in (float("nan"), float("inf")):
        world.sql.execute(
            "insert into logged_model_metrics (model_id, metric_name, metric_timestamp_ms, metric_step,"
            " metric_value, experiment_id, run_id) values (%s, %s, 1, 0, %s, %s, %s)",
            (model, f"raw {value}", value, world.experiment, run),
        )
    world.sql.execute("insert into trace_metrics values (%s, 'tokens', 'nan')", (trace,))
    span = world.one("select span_id from spans where trace_id = %s limit 1", trace)
    world.sql.execute("insert into span_metrics values (%s, %s, 'cost', 0.1)", (trace, span))
    for name, source in (("judged", None), ("by run", run)):
        world.sql.execute(
            "insert into assessments (assessment_id, trace_id, name, assessment_type, value,"
            " created_timestamp, last_updated_timestamp, source_type, valid, assessment_metadata)"
            " values (%s, %s, %s, 'feedback', '1', 1, 1, 'HUMAN', true, %s)",
            (
                f"a-{trace[3:20]}-{name}",
                trace,
                name,
                json.dumps({"mlflow.assessment.sourceRunId": source}) if source else None,
            ),
        )
    world.sql.execute(
        "insert into entity_associations values (gen_random_uuid()::text, 'trace', %s, 'run', %s, 1)",
        (trace, run),
    )
    world.call("experiments/set-experiment-tag", experiment_id=world.experiment, key="owner", value="us")
    world.store.create(f"{world.experiment}/{run}/artifacts/deep/er/data.bin", bytes(range(256)) * 5_000)
    world.store.create(f"{world.experiment}/{run}/artifacts/empty", b"")
    return run, model, trace


#: Tables whose rows are told apart by experiment, run, model or trace: where, given all of these ids.
_ROWS = {
    "experiments": "experiment_id = %(e)s",
    "experiment_tags": "experiment_id = %(e)s",
    "datasets": "experiment_id = %(e)s",
    "runs": "experiment_id = %(e)s",
    "params": "run_uuid = any(%(r)s)",
    "metrics": "run_uuid = any(%(r)s)",
    "latest_metrics": "run_uuid = any(%(r)s)",
    "tags": "run_uuid = any(%(r)s)",
    "inputs": "source_id = any(%(all)s) or destination_id = any(%(all)s)",
    "input_tags": "input_uuid in (select input_uuid from inputs"
    " where source_id = any(%(all)s) or destination_id = any(%(all)s))",
    "logged_models": "experiment_id = %(e)s",
    "logged_model_params": "experiment_id = %(e)s",
    "logged_model_tags": "experiment_id = %(e)s",
    "logged_model_metrics": "experiment_id = %(e)s",
    "trace_info": "experiment_id = %(e)s",
    "trace_tags": "request_id = any(%(t)s)",
    "trace_request_metadata": "request_id = any(%(t)s)",
    "trace_metrics": "request_id = any(%(t)s)",
    "spans": "trace_id = any(%(t)s)",
    "span_metrics": "trace_id = any(%(t)s)",
    "assessments": "trace_id = any(%(t)s)",
    "entity_associations": "source_id = any(%(all)s) or destination_id = any(%(all)s)",
}


class Contents:
    """All that is in a world's experiment: rows as Postgres prints them, objects with their bytes."""

    def __init__(self, world: World) -> None:
        ids = {
            "r": "select run_uuid from runs where experiment_id = %s",
            "m": "select model_id from logged_models where experiment_id = %s",
            "t": "select request_id from trace_info where experiment_id = %s",
        }
        self.ids = {
            name: [row[0] for row in world.sql.execute(query, (world.experiment,))]
            for name, query in ids.items()
        }
        self.rows = self.read(world)
        self.objects = {key: world.store.read(key) for key in world.objects()}

    def read(self, world: World) -> dict[str, list[str]]:
        every = [own for ids in self.ids.values() for own in ids]
        values: dict[str, Any] = {**self.ids, "all": every, "e": int(world.experiment)}
        return {
            table: sorted(
                row[0] for row in world.sql.execute(f"select t::text from {table} t where {where}", values)
            )
            for table, where in _ROWS.items()
        }
