"""A tracking server with data to retain or not: made by MLflow's API, aged by SQL, on the real stack."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from mlflow_platform.adapters.mlflow import MlflowApi
from mlflow_platform.adapters.postgres import Database
from mlflow_platform.adapters.s3 import S3Login, S3Store
from mlflow_platform.local import Stack
from mlflow_platform.model.retention_policy import RetentionPolicy
from mlflow_platform.retention.engine import Engine
from mlflow_platform.retention.report import Report
from mlflow_platform.retention.roots import Roots

DAY = 86_400_000


class Later(S3Store):
    """The stack's store, some days from now."""

    days = 8

    def now(self) -> datetime.datetime:
        return super().now() + datetime.timedelta(days=self.days)


@dataclass
class World:
    """One experiment on the stack and what tests do to it."""

    stack: Stack
    api: MlflowApi
    sql: psycopg.Connection[Any]
    store: S3Store
    name: str
    experiment: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def database(self) -> Database:
        return Database(self.stack.endpoints().database_uri)

    def call(self, path: str, method: str = "POST", **body: Any) -> dict[str, Any]:
        version = "3.0" if path.startswith("traces") else "2.0"
        found: dict[str, Any] = self.api.call(method, f"api/{version}/mlflow/{path}", json=body)
        return found

    def run(
        self,
        *,
        age: float = 100,
        status: str = "FINISHED",
        metric: float | None = None,
        parent: str | None = None,
        tags: dict[str, str] | None = None,
        objects: int = 2,
        experiment: str | None = None,
    ) -> str:
        """A run of this many days, with params, metrics, tags, an input, artifacts."""
        every = {**({"mlflow.parentRunId": parent} if parent else {}), **(tags or {})}
        info = self.call(
            "runs/create",
            experiment_id=experiment or self.experiment,
            start_time=1,
            tags=[{"key": k, "value": v} for k, v in every.items()],
        )["run"]["info"]
        run: str = info["run_id"]
        metrics = [
            {"key": f"m{i}", "value": float(i), "timestamp": 1, "step": s} for i in range(3) for s in range(4)
        ]
        if metric is not None:
            metrics.append({"key": "score", "value": metric, "timestamp": 1, "step": 0})
        params = [{"key": f"p{i}", "value": "v"} for i in range(3)]
        self.call("runs/log-batch", run_id=run, metrics=metrics, params=params)
        dataset = {"name": "d", "digest": "1", "source_type": "local", "source": "{}"}
        self.call(
            "runs/log-inputs",
            run_id=run,
            datasets=[{"dataset": dataset, "tags": [{"key": "a", "value": "b"}]}],
        )
        if status != "RUNNING":
            self.call("runs/update", run_id=run, status=status, end_time=2)
        at = self.ago(age)
        self.sql.execute(
            "update runs set start_time = %s, end_time = case when end_time is null then null else %s end"
            " where run_uuid = %s",
            (at, at, run),
        )
        for i in range(objects):
            self.put(info["artifact_uri"], f"folder/file-{i}")
        return run

    def logged_model(self, run: str | None = None, *, age: float = 100, objects: int = 2) -> str:
        """A logged model with params, tags, metrics of its run, an output and artifacts."""
        found = self.call(
            "logged-models",
            experiment_id=self.experiment,
            name="model",
            source_run_id=run,
            params=[{"key": "p", "value": "v"}],
            tags=[{"key": "t", "value": "v"}],
        )["model"]["info"]
        model: str = found["model_id"]
        if run:
            self.call(
                "runs/log-metric", run_id=run, model_id=model, key="loss", value=1.0, timestamp=1, step=0
            )
            self.call("runs/outputs", run_id=run, models=[{"model_id": model, "step": 0}])
        self.sql.execute(
            "update logged_models set creation_timestamp_ms = %s where model_id = %s", (self.ago(age), model)
        )
        for i in range(objects):
            self.put(found["artifact_uri"], f"part-{i}")
        return model

    def trace(self, *, age: float = 100, objects: int = 1, tags: dict[str, str] | None = None) -> str:
        """A trace with metadata, tags, a span, an assessment and artifacts."""
        trace = f"tr-{random_id(self.sql)}"
        self.call(
            "traces",
            trace={
                "trace_info": {
                    "trace_id": trace,
                    "trace_location": {
                        "type": "MLFLOW_EXPERIMENT",
                        "mlflow_experiment": {"experiment_id": self.experiment},
                    },
                    "request_time": "2020-01-01T00:00:00Z",
                    "state": "OK",
                    "trace_metadata": {"k": "v"},
                    "tags": {"t": "v", **(tags or {})},
                }
            },
        )
        self.sql.execute(
            "update trace_info set timestamp_ms = %s where request_id = %s", (self.ago(age), trace)
        )
        self.span(trace)
        uri = self.one(
            "select value from trace_tags where request_id = %s and key = 'mlflow.artifactLocation'", trace
        )
        for i in range(objects):
            self.put(uri, f"traces-{i}.json")
        return trace

    def span(self, trace: str) -> None:
        """What log_spans writes for one span."""
        self.sql.execute(
            "insert into spans (trace_id, experiment_id, span_id, status, start_time_unix_nano, content)"
            " values (%s, %s, %s, 'OK', 1, '{}')",
            (trace, int(self.experiment), random_id(self.sql)[:16]),
        )

    def version(self, model: str, source: str, **more: Any) -> str:
        """A version of a registered model, which is made where it is missing. It bears no run_id unless
        that is given: versions of older servers have none."""
        if not self.one("select count(*) from registered_models where name = %s", model):
            self.call("registered-models/create", name=model)
        owner = dict(more)
        if source.startswith("models:/m-"):
            owner.setdefault("model_id", source.removeprefix("models:/"))
        elif source.startswith("mlflow-artifacts:"):
            owner.setdefault("run_id", source.split("/")[2])
        answer = self.call("model-versions/create", name=model, source=source, **owner)
        number: str = answer["model_version"]["version"]
        if "run_id" not in more:
            values = (model, int(number))
            self.sql.execute(
                "update model_versions set run_id = null where name = %s and version = %s", values
            )
        return number

    def put(self, uri: str, name: str) -> str:
        """Write an object below an artifact URI; its key."""
        key = uri.removeprefix("mlflow-artifacts:/") + "/" + name
        self.store.create(key, b"0123456789")
        return key

    def uri(self, run: str) -> str:
        found: str = self.one("select artifact_uri from runs where run_uuid = %s", run)
        return found

    def objects(self, below: str = "") -> list[str]:
        """Keys of this experiment's objects, or of one of its parts."""
        prefix = f"{self.experiment}/{below}"
        found, after = [], None
        while True:
            page = self.store.page(prefix, after)
            found += [one.key for one in page.found]
            after = page.after
            if after is None:
                return found

    def exists(self, run: str) -> bool:
        return bool(self.one("select count(*) from runs where run_uuid = %s", run))

    def stage(self, run: str) -> str | None:
        found: str | None = self.one("select lifecycle_stage from runs where run_uuid = %s", run)
        return found

    def one(self, query: str, *values: Any) -> Any:
        row = self.sql.execute(query, values).fetchone()
        return row[0] if row else None

    def ago(self, days: float) -> int:
        """A time in milliseconds by the database's clock."""
        now = self.one("select (extract(epoch from clock_timestamp()) * 1000)::bigint")
        return int(now - days * DAY)

    def counts(self) -> dict[str, int]:
        """Rows of every table of the database but the journal's."""
        tables = self.sql.execute(
            "select case table_schema when 'public' then '' else table_schema || '.' end || table_name from"
            " information_schema.tables where table_type = 'BASE TABLE'"
            " and table_schema not in ('mlplatform', 'information_schema', 'pg_catalog')"
        ).fetchall()
        return {t: self.one(f"select count(*) from {t}") for (t,) in sorted(tables)}

    def age_quarantine(self) -> None:
        """Let every quarantine of the journal be long over."""
        self.sql.execute("update mlplatform.quarantine set chosen_at = now() - interval '30 days'")

    def policy(self, name: str = "test", **spec: Any) -> RetentionPolicy:
        """A policy about this experiment alone, whose brake is off unless it is given."""
        spec.setdefault("selector", {"experiments": [self.name]})
        spec.setdefault("brake", {"maxPercent": 100})
        return RetentionPolicy.model_validate(
            {"kind": "RetentionPolicy", "metadata": {"name": name}, "spec": spec}
        )

    def engine(self, step: Callable[[str], None] = lambda _: None) -> Engine:
        return Engine(self.database, Roots(self.store), step=step)

    def retain(self, **spec: Any) -> Report:
        """One retention run of a policy about this experiment."""
        return self.engine().run([self.policy(**spec)])

    def purge(self, **spec: Any) -> Report:
        """Quarantine, let the quarantine be over, purge."""
        self.retain(**spec)
        self.age_quarantine()
        return self.retain(**spec)


def random_id(connection: psycopg.Connection[Any]) -> str:
    row = connection.execute("select replace(gen_random_uuid()::text, '-', '')").fetchone()
    return str(row[0]) if row else ""


def make_world(stack: Stack, name: str) -> Iterator[World]:
    where = stack.endpoints()
    api = MlflowApi(where.tracking_uri, where.username, where.password)
    login = S3Login(where.s3_endpoint, "us-east-1", where.s3_access_key, where.s3_secret_key)
    store = S3Store(f"s3://{where.s3_bucket}", login)
    uri = where.database_uri.replace("+psycopg", "")
    with psycopg.connect(uri, autocommit=True) as connection:
        world = World(stack, api, connection, store, name)
        world.experiment = world.call("experiments/create", name=name)["experiment_id"]
        yield world
    store.close()


@pytest.fixture
def world(stack: Stack, request: pytest.FixtureRequest) -> Iterator[World]:
    """An experiment of the test's own."""
    yield from make_world(stack, f"retention/{request.node.name}-{time.time_ns()}")


def as_text(report: Report) -> str:
    return json.dumps(report.as_json(), indent=1)
