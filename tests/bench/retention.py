"""Retention beside `mlflow gc` and beside the store's own DeleteObjects, on the same data in one run.

RUNS (default 20,000; variable BENCH_RUNS) have 50 metric rows, 10 params, 5 tags and 5 objects each. gc is
timed on a sample, on the stock schema: our indexes are dropped for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import psycopg

from mlflow_platform.local import Stack
from mlflow_platform.server.schemas import INDEXES
from tests.bench.scale import report, run

RUNS = int(os.environ.get("BENCH_RUNS", "20000"))
METRICS, OBJECTS = 50, 5
#: Runs that gc is timed on, and objects that the store's own rate is measured on.
SAMPLE = max(100, min(500, RUNS // 4))
RAW_OBJECTS = min(20_000, RUNS * OBJECTS)
#: Rows of logged_model_metrics in the case with them.
MODEL_METRICS = 50 * RUNS
WORKERS = 4

#: What is promised.
LEAST_OF_RAW, LEAST_ROWS, LEAST_WHOLE, LEAST_WHOLE_MODELS = 0.8, 30.0, 10.0, 30.0
MOST_MEMORY_MB, MOST_P99 = 300, 2.0

#: The command `mlflow gc`, without the seconds in which its program starts.
_GC = """
import json, sys, time
from mlflow.cli import cli
arguments = json.loads(sys.stdin.read())
start = time.perf_counter()
cli.main(arguments, standalone_mode=False)
print(time.perf_counter() - start)
"""
#: gc's rows alone: what it calls for each run, without any artifact.
_HARD_DELETE = """
import sys, time
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
import os
store = SqlAlchemyStore(os.environ["MLFLOW_BACKEND_STORE_URI"], "s3://mlflow")
ids = sys.stdin.read().split()
store.get_run(ids[0])
start = time.perf_counter()
for run in ids:
    store.get_run(run)
    store._hard_delete_run(run)
print(time.perf_counter() - start)
"""


def main(environment: dict[str, str], scratch: Path) -> bool:
    """Run it against the fresh stack below `scratch`; whether every promise held."""
    stack = Stack(scratch / "stack")
    where = stack.endpoints()
    environment = {
        **environment,
        "MLPLATFORM_DATA": str(scratch / "stack"),
        "MLFLOW_S3_ENDPOINT_URL": where.s3_endpoint,
        "AWS_ACCESS_KEY_ID": where.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": where.s3_secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    s3 = boto3.client(
        "s3",
        endpoint_url=where.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=where.s3_access_key,
        aws_secret_access_key=where.s3_secret_key,
    )
    with psycopg.connect(where.database_uri.replace("+psycopg", ""), autocommit=True) as sql:
        data = Data(sql, s3, where.s3_bucket)
        raw = raw_rate(data)
        print(
            f"DeleteObjects alone: {raw:,.0f} objects/s ({RAW_OBJECTS:,} objects, {WORKERS} requests at once)"
        )
        good = True
        for models in (False, True):
            if models:
                data.model_metrics(MODEL_METRICS)
            print(
                f"{RUNS:,} runs, {RUNS * METRICS:,} metrics, {RUNS * OBJECTS:,} objects"
                f"{f', {MODEL_METRICS:,} logged-model metrics' if models else ''}:"
            )
            data.runs("ours", RUNS)
            good &= compare(data, environment, scratch, raw, with_models=models)
        good &= while_serving(data, environment, scratch)
    return good


class Data:
    """Makes runs that were deleted long ago, by SQL and directly in the store."""

    def __init__(self, sql: psycopg.Connection[Any], s3: Any, bucket: str) -> None:
        self.sql, self.s3, self.bucket = sql, s3, bucket

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

    def runs(self, name: str, count: int, *, objects: int = OBJECTS, metrics: int = METRICS) -> list[str]:
        """Ids of new, deleted runs with rows and objects."""
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
        self.put([f"{experiment}/{i}/artifacts/model/part-{n}" for i in ids for n in range(objects)])
        return ids

    def model_metrics(self, count: int) -> None:
        """Logged models of an experiment that nobody purges, with so many metric rows in all."""
        experiment = self.experiment("kept")
        self.runs("kept", 1, objects=0)
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

    def put(self, keys: list[str]) -> None:
        with ThreadPoolExecutor(16) as pool:
            for _ in pool.map(
                lambda key: self.s3.put_object(Bucket=self.bucket, Key=key, Body=b"x" * 100), keys
            ):
                pass


def raw_rate(data: Data) -> float:
    """Objects a second of DeleteObjects with known keys, as many requests at once as retention sends."""
    keys = [f"raw/{i:02x}/{n}" for i in range(256) for n in range(RAW_OBJECTS // 256)]
    data.put(keys)
    groups = [keys[i : i + 1000] for i in range(0, len(keys), 1000)]

    def delete(group: list[str]) -> None:
        listed = {"Objects": [{"Key": key} for key in group], "Quiet": True}
        assert not data.s3.delete_objects(Bucket=data.bucket, Delete=listed).get("Errors")

    start = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(delete, groups):
            pass
    return len(keys) / (time.perf_counter() - start)


def compare(data: Data, environment: dict[str, str], scratch: Path, raw: float, *, with_models: bool) -> bool:
    """gc on a sample, then everything by retention."""
    gc, gc_rows = gc_rates(data, environment, scratch)
    found, memory, whole = retain(environment, scratch, "ours", RUNS)
    seconds = found["seconds"]
    objects, rows = found["objects"] / seconds["objects"], RUNS / seconds["rows"]
    print(
        f"  gc {gc:,.1f} runs/s ({SAMPLE} runs), its rows alone {gc_rows:,.1f} runs/s; "
        f"retention {RUNS / whole:,.0f} runs/s, its rows alone {rows:,.0f} runs/s, "
        f"objects {objects:,.0f}/s; choosing {seconds['choosing']:.1f} s"
    )
    least = LEAST_WHOLE_MODELS if with_models else LEAST_WHOLE
    good = report(
        "objects, share of DeleteObjects alone",
        objects / raw,
        objects / raw >= LEAST_OF_RAW,
        f">= {LEAST_OF_RAW}",
    )
    good &= report(
        "rows alone / gc's rows", rows / gc_rows, rows / gc_rows >= LEAST_ROWS, f">= {LEAST_ROWS:.0f}"
    )
    good &= report("whole command / gc", RUNS / whole / gc, RUNS / whole / gc >= least, f">= {least:.0f}")
    return good & report("memory, MB", memory, memory < MOST_MEMORY_MB, f"< {MOST_MEMORY_MB}")


def retain(
    environment: dict[str, str], scratch: Path, name: str, count: int, **spec: Any
) -> tuple[dict[str, Any], float, float]:
    """The report of one `mlplatform retention run`, its most memory in MB, its seconds."""
    policy = {
        "apiVersion": "mlplatform.io/v1alpha1",
        "kind": "RetentionPolicy",
        "metadata": {"name": name},
        "spec": {
            "selector": {"experiments": [name]},
            "rules": {"runs": {"softDeletedFor": "1d"}},
            "brake": {"maxPercent": 100},
            **spec,
        },
    }
    file = scratch / f"{name}.json"
    file.write_text(json.dumps(policy))
    plain = {k: v for k, v in environment.items() if not k.startswith("MLFLOW_")}
    command = [sys.executable, "-m", "mlflow_platform.cli", "retention", "run", str(file), "--json"]
    done = run(command, plain)
    found = json.loads(done.output)
    assert found["purged"] == {"run": count}, found
    return found, done.memory, done.seconds


def gc_rates(data: Data, environment: dict[str, str], scratch: Path) -> tuple[float, float]:
    """Runs a second of `mlflow gc`, and of its rows alone."""
    for index in INDEXES:
        data.sql.execute(f"drop index if exists {index}")
    stack = Stack(scratch / "stack").endpoints()
    environment = {**environment, "MLFLOW_BACKEND_STORE_URI": stack.database_uri}

    def seconds(program: str, text: str) -> float:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, input=text, stdout=subprocess.PIPE, text=True)
        done.check_returncode()
        return float(done.stdout.splitlines()[-1])

    ids = data.runs("gc", SAMPLE)
    arguments = ["gc", "--backend-store-uri", stack.database_uri, "--run-ids", ",".join(ids)]
    gc = seconds(_GC, json.dumps([*arguments, "--artifacts-destination", f"s3://{stack.s3_bucket}"]))
    rows = data.runs("gc", SAMPLE, objects=0)
    return SAMPLE / gc, SAMPLE / seconds(_HARD_DELETE, "\n".join(rows))


def while_serving(data: Data, environment: dict[str, str], scratch: Path) -> bool:
    """The server's p99 while a policy with maxP99Factor purges, beside its p99 with nothing else going on."""
    count = max(500, RUNS // 5)
    data.runs("served", count)
    with asked(environment) as quiet:
        time.sleep(15)
    with asked(environment) as busy:
        _, _, took = retain(environment, scratch, "served", count, maxP99Factor=2)
    before, during = p99(quiet), p99(busy)
    print(
        f"  p99 of experiments/get: {before * 1000:.1f} ms alone, {during * 1000:.1f} ms while {count:,} runs"
        f" were purged in {took:.1f} s"
    )
    return report(
        "p99 while purging / alone", during / before, during / before <= MOST_P99, f"<= {MOST_P99:.0f}"
    )


@contextmanager
def asked(environment: dict[str, str]) -> Iterator[list[float]]:
    """Ask the server all the time, from one thread; seconds of each answer."""
    answers: list[float] = []
    stopped = threading.Event()
    login = f"{environment['MLFLOW_TRACKING_USERNAME']}:{environment['MLFLOW_TRACKING_PASSWORD']}"
    headers = {"Authorization": "Basic " + b64encode(login.encode()).decode()}
    address = f"{environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/get?experiment_id=0"

    def ask() -> None:
        while not stopped.wait(0.01):
            start = time.perf_counter()
            with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:  # noqa: S310
                answer.read()
            answers.append(time.perf_counter() - start)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        stopped.set()
        thread.join()


def p99(answers: list[float]) -> float:
    return sorted(answers)[int(0.99 * (len(answers) - 1))]
