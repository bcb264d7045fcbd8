"""Backup and restore: their rates on 10,000 artifacts and half a million metrics, extrapolated to 10 GB.
BENCH_BACKUP=0.1: a tenth of them.

The store of artifacts, the store of backups and the store of the restored platform are one SeaweedFS on this
machine, which therefore reads and writes every byte; objects are 64 KiB, and some are 32 MiB.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg

from mlflow_platform.adapters.postgres import Database
from mlflow_platform.adapters.s3 import S3Login, S3Tree
from mlflow_platform.backup.create import Platform, create
from mlflow_platform.backup.drill import drill
from mlflow_platform.backup.manifest import Manifest
from mlflow_platform.backup.restore import Target, restore
from mlflow_platform.backup.sealing import Key
from mlflow_platform.backup.vault import Vault
from mlflow_platform.backup.verify import verify
from mlflow_platform.local import Stack
from mlflow_platform.local.scratch import scratch_postgres

SHARE = float(os.environ.get("BENCH_BACKUP", "1"))
RUNS, OBJECTS, LARGE, METRICS = (max(1, int(SHARE * n)) for n in (2_000, 10_000, 12, 500_000))
SMALL_SIZE, LARGE_SIZE = 64 * 1024, 32 * 1024 * 1024
GOAL = 10 * 10**9
#: Promise of docs/backup.md: memory does not grow with the data.
MOST_MEMORY = 400 * 2**20
_PROCESS = Path("/proc/self")


def fill(uri: str, tree: S3Tree) -> None:
    """Rows by SQL, as MLflow makes them; objects below their runs."""
    with psycopg.connect(uri.replace("+psycopg", "")) as connection:
        row = connection.execute(
            "insert into experiments (name, artifact_location, lifecycle_stage, workspace)"
            " values ('bench', 'mlflow-artifacts:/1', 'active', 'default') returning experiment_id"
        ).fetchone()
        experiment = row[0] if row else 0
        connection.execute(
            "insert into runs (run_uuid, name, experiment_id, artifact_uri, lifecycle_stage, status)"
            " select md5(i::text), 'r', %s, 'mlflow-artifacts:/1/' || md5(i::text) || '/artifacts',"
            " 'active', 'FINISHED' from generate_series(1, %s) i",
            (experiment, RUNS),
        )
        connection.execute(
            "insert into metrics (run_uuid, key, value, timestamp, step, is_nan)"
            " select md5((1 + i %% %s)::text), 'm', i / 3.0, i, i, false from generate_series(1, %s) i",
            (RUNS, METRICS),
        )
        runs = [r for (r,) in connection.execute("select run_uuid from runs order by 1")]

    def put(number: int) -> None:
        size = LARGE_SIZE if number < LARGE else SMALL_SIZE
        with tree.writing(f"1/{runs[number % RUNS]}/artifacts/part-{number}", size) as out:
            out.write(os.urandom(size))

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(put, range(OBJECTS + LARGE)):
            pass


def timed(what: str, size: int, count: int, work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    seconds = time.monotonic() - began
    rate = size / seconds
    print(
        f"  {what:34} {seconds:7.1f} s  {rate / 10**6:7.1f} MB/s  {count / seconds:7.0f} objects/s"
        f"  10 GB: {GOAL / rate / 60:5.1f} min",
        flush=True,
    )
    return seconds


def _peak() -> int:
    """The most memory of this process, in bytes."""
    (line,) = (x for x in (_PROCESS / "status").read_text().splitlines() if x.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main(environment: dict[str, str], scratch: Path) -> bool:
    stack = Stack(scratch / "stack")
    where = stack.endpoints()
    login = S3Login(where.s3_endpoint, "us-east-1", where.s3_access_key, where.s3_secret_key)
    trees: Sequence[S3Tree] = [S3Tree(f"s3://{where.s3_bucket}/{n}", login) for n in ("source", "new")]
    fill(where.database_uri, trees[0])
    _PROCESS.joinpath("clear_refs").write_text("5")  # what filling took is no part of the peak (man 5 proc)
    platform = Platform(Database(where.database_uri), Database(where.auth_database_uri), trees[0])
    print(f"backup: {METRICS:,} metrics, {OBJECTS:,} objects of 64 KiB, {LARGE} of 32 MiB", flush=True)
    size = OBJECTS * SMALL_SIZE + LARGE * LARGE_SIZE
    count = OBJECTS + LARGE
    held, peak = True, 0
    for kind, key in (("", None), (" encrypted", Key(os.urandom(32)))):
        vault = Vault(S3Tree(f"s3://{where.s3_bucket}/backups{kind.strip()}", login), key)
        made: list[Manifest] = []
        with closing(vault.tree):
            timed(f"create{kind}", size, count, lambda v=vault, m=made: m.append(create(platform, v)))
            time.sleep(1)
            if key is None:
                again = timed("create, nothing changed", size, count, lambda v=vault: create(platform, v))
                held &= again < made[0].seconds
            timed(f"verify{kind}", size, count, lambda v=vault, m=made: verify(v, m[0].name))
            peak = _peak()  # before MLflow is imported
            if key is not None:
                held &= _there_and_back(vault, made[0], trees[1], size, count)
    print(f"  peak memory {peak / 2**20:.0f} MiB (bar: {MOST_MEMORY / 2**20:.0f})")
    for tree in trees:
        tree.close()
    return held and peak < MOST_MEMORY


def _there_and_back(vault: Vault, made: Manifest, new: S3Tree, size: int, count: int) -> bool:
    with scratch_postgres() as server:
        databases = Database(server.uri("mlflow")), Database(server.uri("mlflow_auth"))
        timed(
            "restore encrypted",
            size,
            count,
            lambda: restore(Target(Platform(*databases, new)), vault, made.name),
        )
    with scratch_postgres() as server:
        databases = Database(server.uri("mlflow")), Database(server.uri("mlflow_auth"))
        passed: list[bool] = []
        timed(
            "drill encrypted", size, count, lambda: passed.append(drill(vault, made.name, *databases).passed)
        )
    return all(passed)
