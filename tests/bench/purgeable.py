"""Runs that were deleted long ago, with rows and objects, made by SQL and directly in the store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import psycopg

from mlflow_platform.local.stack import Endpoints
from tests.bench.fill import Filler


class Data:
    """What one bench puts into the database and the store of a stack."""

    def __init__(self, sql: psycopg.Connection[Any], where: Endpoints) -> None:
        self.sql = sql
        self._fill = Filler(where.s3_endpoint, where.s3_bucket, where.s3_access_key, where.s3_secret_key)

    def experiment(self, name: str) -> int:
        row = self.sql.execute(
            "insert into experiments (name, artifact_location, lifecycle_stage, creation_time,"
            " last_update_time) values (%s, '', 'active', 0, 0) on conflict (workspace, name)"
            " do update set name = excluded.name"
            " returning experiment_id",
            (name,),
        ).fetchone()
        assert row is not None
        self.sql.execute(
            "update experiments set artifact_location = 'mlflow-artifacts:/' || experiment_id"
            " where experiment_id = %s",
            row,
        )
        return int(row[0])

    def runs(self, name: str, count: int, *, objects: int, metrics: int, empty: bool = False) -> list[str]:
        """Ids of new, deleted runs; each has so many objects and metric rows, 10 params, 5 tags. `empty`:
        objects without content, which a store makes sooner."""
        experiment = self.experiment(name)
        self.sql.execute("drop table if exists made")
        self.sql.execute(
            "create temp table made as select replace(gen_random_uuid()::text, '-', '') id"
            " from generate_series(1, %s)",
            (count,),
        )
        statements = {
            "runs (run_uuid, name, status, start_time, end_time, lifecycle_stage, deleted_time,"
            " experiment_id, artifact_uri, source_type, user_id)": "select id, 'r', 'FINISHED',"
            " 1, 2, 'deleted', 3, %(e)s, 'mlflow-artifacts:/' || %(e)s || '/' || id || '/artifacts',"
            " 'LOCAL', 'u' from made",
            "metrics (key, value, timestamp, run_uuid, step)": "select 'm' || s %% 5, s, s, id, s from made,"
            " generate_series(1, %(m)s) s",
            "latest_metrics (key, value, timestamp, run_uuid, step, is_nan)": "select 'm' || s, s, s, id, s,"
            " false from made, generate_series(0, 4) s",
            "params (key, value, run_uuid)": "select 'p' || s, s, id from made, generate_series(1, 10) s",
            "tags (key, value, run_uuid)": "select 't' || s, s, id from made, generate_series(1, 5) s",
        }
        for table, query in statements.items():
            self.sql.execute(f"insert into {table} {query}", {"e": experiment, "m": metrics})
        self.sql.execute("analyze")
        ids = [row[0] for row in self.sql.execute("select id from made")]
        fill = replace(self._fill, body=b"") if empty else self._fill
        fill.put(key for run in ids for key in keys(f"{experiment}/{run}", objects))
        return ids

    def put(self, named: Iterable[str]) -> None:
        self._fill.put(named)

    def model_metrics(self, count: int) -> None:
        """Logged models of an experiment that nobody purges, with so many metric rows in all."""
        experiment = self.experiment("kept")
        self.runs("kept", 1, objects=0, metrics=1)
        self.sql.execute(
            "update runs set lifecycle_stage = 'active', deleted_time = null where experiment_id = %s",
            (experiment,),
        )
        self.sql.execute(
            "insert into logged_models (model_id, experiment_id, name, artifact_location,"
            " creation_timestamp_ms, last_updated_timestamp_ms, status, lifecycle_stage)"
            " select 'm-' || md5(i::text), %s, 'm', 'x', 1, 1, 2, 'active' from generate_series(1, 1000) i",
            (experiment,),
        )
        self.sql.execute(
            "insert into logged_model_metrics (model_id, metric_name, metric_timestamp_ms, metric_step,"
            " metric_value, experiment_id, run_id)"
            " select 'm-' || md5((1 + i %% 1000)::text), 'loss', i, i, 1, %s,"
            " (select run_uuid from runs where experiment_id = %s limit 1) from generate_series(1, %s) i",
            (experiment, experiment, count),
        )
        self.sql.execute("analyze")


def keys(folder: str, count: int) -> Iterable[str]:
    """The objects of one run: a model of some parts; of a large one, folders of a thousand."""
    for n in range(count):
        yield f"{folder}/artifacts/model{f'-{n // 1000:04}' if count > 1000 else ''}/part-{n}"
