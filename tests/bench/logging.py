"""What logging costs its caller, against a store that does nothing and against MLflow's own client; imports;
memory with the server dead. `drain`: how fast a spool drains, against the server's own limit."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.scale import report, run
from tests.faults.proxy import Exchange, Proxy

CALLS = 4000
#: Of plain MLflow with a server that takes two seconds an answer: each call waits.
FEW = 3
RECORDS = 1_000_000
DRAINED, ROUNDS = 50_000, 5
#: Promises: p99 in microseconds on an idle interpreter; the drain as a share of log_batch's own rate; growth
#: of the program's memory, in MB, over a million records.
CHEAP = ("log_metric", "log_param", "set_tag", "child span")
MOST_MICROSECONDS, LEAST_DRAIN, MOST_GROWTH_MB = 1000.0, 0.9, 50.0


def main(environment: dict[str, str], scratch: Path) -> bool:
    uri = environment["MLFLOW_TRACKING_URI"]
    base = {**environment, "MLPLATFORM_SPOOL": str(scratch / "spool"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    base["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    with slow(uri) as slow_uri, closed_port() as dead_uri:
        found = {
            "no-op": calls(base, "noop://", CALLS),
            "durable, healthy": calls(base, f"durable+{uri}", CALLS),
            "durable, slow": calls(base, f"durable+{slow_uri}", CALLS),
            "durable, dead": calls(base, f"durable+{dead_uri}", CALLS),
            "MLflow sync, healthy": calls(base, uri, CALLS // 20),
            "MLflow async, healthy": calls({**base, "ASYNC": "true"}, uri, CALLS // 4),
            "MLflow sync, slow": calls(base, slow_uri, FEW),
        }
    nothing = found["no-op"]
    print(f"{'microseconds, p50/p99/p99.9':<28}" + "".join(f"{name:>26}" for name in nothing))
    for name, kinds in found.items():
        cells = "".join(f"{'/'.join(f'{v:.0f}' for v in kinds[k]):>26}" for k in nothing)
        print(f"{name:<28}{cells}")
    held = True
    for name in ("durable, healthy", "durable, slow", "durable, dead"):
        for kind in CHEAP:
            value = found[name][kind][1]
            held &= report(
                f"{name}: {kind} p99 us", value, value < MOST_MICROSECONDS, f"< {MOST_MICROSECONDS:.0f}"
            )
    imports(base, uri)
    return held & memory(base)


def calls(environment: dict[str, str], uri: str, count: int) -> dict[str, list[float]]:
    ran = run(
        [sys.executable, "-m", "tests.bench.calls", str(count)], {**environment, "MLFLOW_TRACKING_URI": uri}
    )
    found: dict[str, list[float]] = json.loads(ran.output.splitlines()[-1])
    return found


_IMPORT = """
import time
began = time.perf_counter()
import mlflow
from mlflow.tracking._tracking_service.utils import _get_store
imported = time.perf_counter()
_get_store()
print(imported - began, time.perf_counter() - imported)
"""


def imports(environment: dict[str, str], uri: str) -> None:
    """What a program waits for before its first call; the best of three: the first fills the disk's cache."""
    for name, where in (("MLflow's own", uri), ("durable", f"durable+{uri}")):
        times = [
            run([sys.executable, "-c", _IMPORT], {**environment, "MLFLOW_TRACKING_URI": where}).output.split()
            for _ in range(3)
        ]
        imported, opened = (min(float(t[i]) for t in times) for i in (-2, -1))
        print(f"{name}: import mlflow {imported:.2f} s, then the store {1000 * opened:.0f} ms")


_MEMORY = """
import resource, mlflow
def used(): return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / (1 << 20)
with mlflow.start_run():
    for i in range(1000): mlflow.log_metric("m", i, step=i)
    before = used()
    for i in range({records}): mlflow.log_metric("m", i, step=i)
    print(used() - before)
"""


def memory(environment: dict[str, str]) -> bool:
    """Growth of the program, with nobody to deliver to."""
    with closed_port() as uri:
        variables = {**environment, "MLFLOW_TRACKING_URI": f"durable+{uri}"}
        ran = run([sys.executable, "-c", _MEMORY.format(records=RECORDS)], variables)
    grown = float(ran.output.splitlines()[-1])
    per_call = 1e6 * ran.seconds / RECORDS
    print(f"{RECORDS} metrics with the server dead: {ran.seconds:.0f} s, {per_call:.0f} microseconds each")
    return report("MB grown", grown, grown <= MOST_GROWTH_MB, f"<= {MOST_GROWTH_MB:.0f}")


_FILL = """
import mlflow
with mlflow.start_run():
    for i in range({records}): mlflow.log_metric("m", i, step=i)
"""
#: Both in one process each, with MLflow imported and a first request made before the clock starts.
_DRAIN = """
import os, time
from mlflow_platform.client.shipper import deliver_now, prepare_environment
from mlflow_platform.client.spool import base_folder, spools
spool = [s for s in spools(base_folder()) if s.uri == os.environ["MLFLOW_TRACKING_URI"]][0]
prepare_environment(spool.uri)
import mlflow
mlflow.MlflowClient().get_experiment("0")
began = time.perf_counter()
assert not deliver_now(spool, None, print)
print(time.perf_counter() - began)
"""
_LIMIT = """
import time
import mlflow
from mlflow.entities import Metric
client = mlflow.MlflowClient()
run = client.create_run("0")
batches = [[Metric("m", float(i), 1, i) for i in range(j, j + 1000)] for j in range(0, {records}, 1000)]
began = time.perf_counter()
for batch in batches: client.log_batch(run.info.run_id, metrics=batch)
print(time.perf_counter() - began)
"""


def drain(environment: dict[str, str], scratch: Path) -> bool:
    """Alternated, the better of each: both are bound by the server."""
    uri = environment["MLFLOW_TRACKING_URI"]
    environment = {
        **environment,
        "MLPLATFORM_SPOOL": str(scratch / "spool"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    ours, theirs = [], []
    for _ in range(ROUNDS):
        filled = {**environment, "MLFLOW_TRACKING_URI": f"durable+{uri}", "MLPLATFORM_OFFLINE": "1"}
        run([sys.executable, "-c", _FILL.format(records=DRAINED)], filled)
        plain = {**environment, "MLFLOW_TRACKING_URI": uri}
        ours.append(float(run([sys.executable, "-c", _DRAIN], plain).output.splitlines()[-1]))
        theirs.append(
            float(run([sys.executable, "-c", _LIMIT.format(records=DRAINED)], plain).output.split()[-1])
        )
        print(f"  {DRAINED / ours[-1]:.0f} and {DRAINED / theirs[-1]:.0f} metrics/s", flush=True)
    rate, limit = DRAINED / min(ours), DRAINED / min(theirs)
    print(f"drained {rate:.0f} metrics/s; log_batch of 1,000 takes {limit:.0f}/s")
    return report("drain / log_batch", rate / limit, rate / limit >= LEAST_DRAIN, f">= {LEAST_DRAIN}")


@contextmanager
def slow(uri: str) -> Iterator[str]:
    """A server every answer of which takes two seconds more."""

    def late(exchange: Exchange) -> None:
        whole = exchange.forward()
        if exchange.hold(2.0):
            exchange.reply(whole)

    parts = urlsplit(uri)
    with Proxy((parts.hostname or "", parts.port or 0)) as proxy:
        proxy.on("", late, times=-1)
        yield proxy.uri


@contextmanager
def closed_port() -> Iterator[str]:
    """An address that refuses connections: bound, and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
