"""Retention beside `mlflow gc` and beside the store's own DeleteObjects, on the same data in one run.

RUNS (default 20,000; variable BENCH_RUNS) have 50 metric rows, 10 params, 5 tags and 5 objects each. gc is
timed on a sample, on the stock schema: our indexes are dropped for it.

BENCH_CASES names some of the cases, each on a stack that the others have left empty:

    plain     these runs
    models    the same beside 50 logged-model metrics for each run, which are another experiment's
    delayed   the same with 2 ms added to every round trip to Postgres and to S3, for gc and the store's own
              rate, too
    serving   what a client of the server notices of it
    large     one run of 6.5 million metric rows and a million objects, which are empty (BENCH_LARGE=0.1: a
              tenth of them); only when it is named
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psycopg

from mlflow_platform.local import Stack
from mlflow_platform.server.schemas import INDEXES
from tests.bench.delay import delayed
from tests.bench.purgeable import Data, keys
from tests.bench.scale import report, run

RUNS = int(os.environ.get("BENCH_RUNS", "20000"))
METRICS, OBJECTS = 50, 5
#: Runs that gc is timed on; objects that the store's own rate is measured on,
#: half of them before retention and half after it.
SAMPLE = max(100, min(500, RUNS // 4))
RAW_OBJECTS = min(20_000, RUNS * OBJECTS)
#: Rows of logged_model_metrics in the case with them.
MODEL_METRICS = 50 * RUNS
WORKERS = 4
#: Seconds added to a round trip.
DELAY = 0.002
LARGE_METRICS, LARGE_OBJECTS = 6_500_000, int(1_000_000 * float(os.environ.get("BENCH_LARGE", "1")))

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


@dataclass(frozen=True)
class Site:
    """The stack, as retention and gc reach it: through a delay or not."""

    environment: dict[str, str]
    scratch: Path
    data: Data
    bucket: str

    @classmethod
    def of(cls, stack: Stack, environment: dict[str, str], scratch: Path, data: Data) -> Site:
        where = stack.endpoints()
        own = {
            "MLFLOW_BACKEND_STORE_URI": where.database_uri,
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{where.s3_bucket}",
            "MLFLOW_S3_ENDPOINT_URL": where.s3_endpoint,
            "AWS_ACCESS_KEY_ID": where.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": where.s3_secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        return cls({**environment, **own}, scratch, data, where.s3_bucket)

    @contextmanager
    def delayed(self) -> Iterator[Site]:
        """The same with DELAY added to every round trip."""
        uris = [self.environment[n] for n in ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_S3_ENDPOINT_URL")]
        addresses = [(urlsplit(u).hostname or "", urlsplit(u).port or 5432) for u in uris]
        with delayed(DELAY, addresses) as ports:
            moved = [
                uri.replace(f"{host}:{port}", f"127.0.0.1:{ours}")
                for uri, (host, port), ours in zip(uris, addresses, ports, strict=True)
            ]
            changed = dict(zip(("MLFLOW_BACKEND_STORE_URI", "MLFLOW_S3_ENDPOINT_URL"), moved, strict=True))
            yield Site({**self.environment, **changed}, self.scratch, self.data, self.bucket)

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.environment["MLFLOW_S3_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )


def main(environment: dict[str, str], scratch: Path) -> bool:
    """Run it against the fresh stack below `scratch`; whether every promise held."""
    stack = Stack(scratch / "stack")
    cases: dict[str, Callable[[Site], bool]] = {
        "plain": plain,
        "models": models,
        "delayed": slow_network,
        "serving": while_serving,
        "large": large,
    }
    names = os.environ.get("BENCH_CASES", "plain,delayed,models,serving").split(",")
    good = True
    with psycopg.connect(_plain(stack.endpoints().database_uri), autocommit=True) as sql:
        site = Site.of(stack, environment, scratch, Data(sql, stack.endpoints()))
        for name in names:
            good &= cases[name](site)
    return good


def plain(site: Site) -> bool:
    print(f"{RUNS:,} runs, {RUNS * METRICS:,} metrics, {RUNS * OBJECTS:,} objects:", flush=True)
    return compare(site, SAMPLE, LEAST_WHOLE)


def models(site: Site) -> bool:
    site.data.model_metrics(MODEL_METRICS)
    print(f"the same beside {MODEL_METRICS:,} logged-model metrics:", flush=True)
    return compare(site, SAMPLE, LEAST_WHOLE_MODELS)


def slow_network(site: Site) -> bool:
    with site.delayed() as slow:
        print(f"the same with {DELAY * 1000:.0f} ms added to every round trip:", flush=True)
        added = [_round_trip(s.environment["MLFLOW_BACKEND_STORE_URI"]) for s in (site, slow)]
        print(f"  `select 1` takes {added[0] * 1000:.2f} ms without and {added[1] * 1000:.2f} ms with it")
        return compare(slow, SAMPLE, LEAST_WHOLE)


def compare(site: Site, sample: int, least: float) -> bool:
    """gc on a sample, then everything by retention."""
    gc, gc_rows = gc_rates(site, sample)
    site.data.runs("ours", RUNS, objects=OBJECTS, metrics=METRICS)
    raw = raw_seconds(site)
    found, memory, whole = retain(site, "ours", RUNS)
    raw = RAW_OBJECTS // 2 * 2 / (raw + raw_seconds(site))
    seconds = found["seconds"]
    objects, rows = found["objects"] / seconds["objects"], RUNS / seconds["rows"]
    print(
        f"  gc {gc:,.1f} runs/s ({sample} runs), its rows alone {gc_rows:,.1f} runs/s; DeleteObjects alone"
        f" {raw:,.0f} objects/s ({RAW_OBJECTS:,}, {WORKERS} requests at once);\n"
        f"  retention {RUNS / whole:,.0f} runs/s ({whole:.1f} s), its rows alone {rows:,.0f} runs/s, "
        f"objects {objects:,.0f}/s; seconds: {json.dumps(seconds)}"
    )
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


def raw_seconds(site: Site) -> float:
    """Seconds of DeleteObjects for half of RAW_OBJECTS, whose keys are known: of the same shape as those of
    runs, in their order, as many requests at once as retention sends."""
    runs = (f"raw/{i:032x}" for i in range(RAW_OBJECTS // 2 // OBJECTS))
    named = [key for run in runs for key in keys(run, OBJECTS)]
    site.data.put(named)
    client = site.client()

    def delete(group: list[str]) -> None:
        listed = {"Objects": [{"Key": key} for key in group], "Quiet": True}
        assert not client.delete_objects(Bucket=site.bucket, Delete=listed).get("Errors")

    start = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(delete, [named[i : i + 1000] for i in range(0, len(named), 1000)]):
            pass
    return time.perf_counter() - start


def retain(site: Site, name: str, count: int, **spec: Any) -> tuple[dict[str, Any], float, float]:
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
    file = site.scratch / f"{name}.json"
    file.write_text(json.dumps(policy))
    command = [sys.executable, "-m", "mlflow_platform.cli", "retention", "run", str(file), "--json"]
    done = run(command, site.environment)
    found = json.loads(done.output)
    assert found["purged"] == {"run": count}, found
    return found, done.memory, done.seconds


def gc_rates(site: Site, sample: int) -> tuple[float, float]:
    """Runs a second of `mlflow gc`, and of its rows alone."""
    for index in INDEXES:
        site.data.sql.execute(f"drop index if exists {index}")

    def seconds(program: str, text: str) -> float:
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, env=site.environment, input=text, stdout=subprocess.PIPE, text=True, check=True
        )
        return float(done.stdout.splitlines()[-1])

    ids = site.data.runs("gc", sample, objects=OBJECTS, metrics=METRICS)
    uri = site.environment["MLFLOW_BACKEND_STORE_URI"]
    arguments = ["gc", "--backend-store-uri", uri, "--run-ids", ",".join(ids)]
    gc = seconds(_GC, json.dumps([*arguments, "--artifacts-destination", f"s3://{site.bucket}"]))
    rows = site.data.runs("gc", sample, objects=0, metrics=METRICS)
    return sample / gc, sample / seconds(_HARD_DELETE, "\n".join(rows))


def while_serving(site: Site) -> bool:
    """The server's p99 while a policy with maxP99Factor purges, beside its p99 with nothing else going on."""
    count = max(500, RUNS // 5)
    site.data.runs("served", count, objects=OBJECTS, metrics=METRICS)
    with asked(site.environment) as quiet:
        time.sleep(15)
    with asked(site.environment) as busy:
        found, _, took = retain(site, "served", count, maxP99Factor=2)
        ended = time.perf_counter()
    # Without the start of the program, and the seconds in which it looks what the server's p99 is.
    purging = sum(found["seconds"].values())
    while_purging = {at: seconds for at, seconds in busy.items() if at > ended - purging}
    before, during = p99(quiet), p99(while_purging)
    print(
        f"  p99 of experiments/get: {before * 1000:.1f} ms alone ({len(quiet):,}), {during * 1000:.1f} ms"
        f" ({len(while_purging):,}) in {purging:.1f} s of {took:.1f} s in which {count:,} runs went"
    )
    return report(
        "p99 while purging / alone", during / before, during / before <= MOST_P99, f"<= {MOST_P99:.0f}"
    )


def large(site: Site) -> bool:
    """One run that is large, and the memory it takes to purge it."""
    print(f"one run of {LARGE_METRICS:,} metric rows and {LARGE_OBJECTS:,} objects:", flush=True)
    start = time.perf_counter()
    site.data.runs("large", 1, objects=LARGE_OBJECTS, metrics=LARGE_METRICS, empty=True)
    print(f"  made in {time.perf_counter() - start:.0f} s", flush=True)
    found, memory, took = retain(site, "large", 1)
    assert found["objects"] == LARGE_OBJECTS, found
    assert found["rows"]["metrics"] == LARGE_METRICS, found
    print(f"  purged in {took:.0f} s; seconds: {json.dumps(found['seconds'])}")
    return report("memory, MB", memory, memory < MOST_MEMORY_MB, f"< {MOST_MEMORY_MB}")


@contextmanager
def asked(environment: dict[str, str]) -> Iterator[dict[float, float]]:
    """Ask the server all the time, from one thread; seconds of each answer, by the time at which it came."""
    answers: dict[float, float] = {}
    stopped = threading.Event()
    login = f"{environment['MLFLOW_TRACKING_USERNAME']}:{environment['MLFLOW_TRACKING_PASSWORD']}"
    headers = {"Authorization": "Basic " + b64encode(login.encode()).decode()}
    address = f"{environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/get?experiment_id=0"

    def ask() -> None:
        while not stopped.wait(0.01):
            start = time.perf_counter()
            with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:  # noqa: S310
                answer.read()
            answers[time.perf_counter()] = time.perf_counter() - start

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        stopped.set()
        thread.join()


def p99(answers: dict[float, float]) -> float:
    return sorted(answers.values())[int(0.99 * (len(answers) - 1))]


def _plain(uri: str) -> str:
    """For psycopg: without SQLAlchemy's name of the driver."""
    return uri.replace("+psycopg", "")


def _round_trip(uri: str) -> float:
    """Seconds of the fastest of some questions to Postgres."""
    took = []
    with psycopg.connect(_plain(uri), autocommit=True) as sql:
        for _ in range(50):
            start = time.perf_counter()
            sql.execute("select 1")
            took.append(time.perf_counter() - start)
    return min(took)
