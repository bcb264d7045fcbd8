"""Archive, verify and restore beside a bare copy of the same objects in the same store, in one run.

RUNS (default 1,000; variable BENCH_ARCHIVE_RUNS) have 500 metric rows, 10 params and 5 objects of 100 kB. The
bare copy reads and writes each object once, with as many at a time; an archive also reads all of it back, and
a restore asks first whether each object is there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import psycopg
from botocore.config import Config

from mlflow_platform.archive.copying import WORKERS
from mlflow_platform.local import Stack
from tests.bench.scale import report, run

RUNS = int(os.environ.get("BENCH_ARCHIVE_RUNS", "1000"))
METRICS, PARAMS, OBJECTS, BYTES = 500, 10, 5, 100_000

#: What is promised: shares of the bare copy's time for the objects, and memory.
LEAST_ARCHIVED, LEAST_RESTORED, MOST_MEMORY_MB = 0.3, 0.35, 300

_FILL = (
    (
        "insert into experiments (name, artifact_location, lifecycle_stage, creation_time, last_update_time)"
        " values ('ours', '', 'active', 0, 0)"
    ),
    "update experiments set artifact_location = 'mlflow-artifacts:/' || experiment_id where name = 'ours'",
    (
        "insert into runs (run_uuid, name, status, start_time, end_time, lifecycle_stage, deleted_time,"
        " experiment_id, artifact_uri, source_type, user_id) select md5(i::text), 'r', 'FINISHED', 1, 2,"
        " 'deleted', 3, experiment_id, artifact_location || '/' || md5(i::text) || '/artifacts', 'LOCAL', 'u'"
        " from experiments, generate_series(1, %(runs)s) i where experiments.name = 'ours'"
    ),
    (
        "insert into metrics (key, value, timestamp, run_uuid, step) select 'm' || s %% 5, random(), s,"
        " md5(i::text), s from generate_series(1, %(runs)s) i, generate_series(1, %(metrics)s) s"
    ),
    (
        "insert into params select 'p' || s, s, md5(i::text)"
        " from generate_series(1, %(runs)s) i, generate_series(1, %(params)s) s"
    ),
    "analyze",
)


def main(environment: dict[str, str], scratch: Path) -> bool:
    """Run it against the fresh stack below `scratch`; whether every promise held."""
    where = Stack(scratch / "stack").endpoints()
    environment = {k: v for k, v in environment.items() if not k.startswith("MLFLOW_")}
    environment["MLPLATFORM_DATA"] = str(scratch / "stack")
    s3 = boto3.client(
        "s3",
        endpoint_url=where.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=where.s3_access_key,
        aws_secret_access_key=where.s3_secret_key,
        config=Config(max_pool_connections=2 * WORKERS),
    )
    bucket = where.s3_bucket
    with psycopg.connect(where.database_uri.replace("+psycopg", ""), autocommit=True) as sql:
        for statement in _FILL:
            values = {"runs": RUNS, "metrics": METRICS, "params": PARAMS} if "%(" in statement else None
            sql.execute(statement, values)
        uris = "select artifact_uri from runs join experiments e using (experiment_id) where e.name = 'ours'"
        rows = sql.execute(uris).fetchall()
    keys = [f"{uri.removeprefix('mlflow-artifacts:/')}/part-{n}" for (uri,) in rows for n in range(OBJECTS)]
    megabytes = len(keys) * BYTES / 1e6
    body = os.urandom(BYTES)
    _each(keys, lambda key: s3.put_object(Bucket=bucket, Key=key, Body=body))

    def copy(key: str) -> None:
        found = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        s3.put_object(Bucket=bucket, Key=f"bare/{key}", Body=found)

    start = time.perf_counter()
    _each(keys, copy)
    bare = megabytes / (time.perf_counter() - start)
    print(
        f"{RUNS:,} runs, {RUNS * METRICS:,} metric rows, {len(keys):,} objects, {megabytes:,.0f} MB;"
        f" bare copy {bare:,.0f} MB/s, {bare / megabytes * len(keys):,.0f} objects/s"
    )
    command = [sys.executable, "-m", "mlflow_platform.cli"]
    destination = f"s3://{bucket}/archives"
    made = run([*command, "archive", "create", destination, "--experiment", "ours", "--json"], environment)
    archive: str = json.loads(made.output)["id"]
    checked = run([*command, "archive", "verify", destination, archive], environment)
    _purge(command, environment, scratch)
    back = run([*command, "archive", "restore", destination, archive, "--json"], environment)
    (found,) = json.loads(back.output)["archives"]
    assert (found["things"]["run"], found["rows"]["metrics"]) == (RUNS, RUNS * METRICS), found
    assert found["objects"] == len(keys), found
    for name, ran in (("archived", made), ("verified", checked), ("restored", back)):
        rate = megabytes / ran.seconds
        print(
            f"  {name}: {RUNS / ran.seconds:,.0f} runs/s, {rate:,.1f} MB/s; 10 GB: {1e4 / rate / 60:.0f} min"
        )
    good = True
    for name, ran, least in (("archived", made, LEAST_ARCHIVED), ("restored", back, LEAST_RESTORED)):
        share = megabytes / ran.seconds / bare
        good &= report(f"{name} / bare copy of the objects", share, share >= least, f">= {least}")
        good &= report(
            f"memory while {name}, MB", ran.memory, ran.memory < MOST_MEMORY_MB, f"< {MOST_MEMORY_MB}"
        )
    return good


def _each(keys: Iterable[str], act: Any) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(act, keys):
            pass


def _purge(command: list[str], environment: dict[str, str], scratch: Path) -> None:
    """Everything that was archived."""
    policy = {
        "apiVersion": "mlplatform.io/v1alpha1",
        "kind": "RetentionPolicy",
        "metadata": {"name": "ours"},
        "spec": {
            "selector": {"experiments": ["ours"]},
            "rules": {"runs": {"softDeletedFor": "1d"}},
            "brake": {"maxPercent": 100},
        },
    }
    (scratch / "ours.json").write_text(json.dumps(policy))
    run([*command, "retention", "run", str(scratch / "ours.json"), "--json"], environment)
