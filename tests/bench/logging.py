"""What logging costs its caller, against a store that does nothing and against MLflow's own client; imports;
memory with the server dead. `drain`: how fast a spool drains, against the server's own limit.

Each program is measured alone: with a spool folder of its own, begun when the machine is idle. Where the
server is healthy, what it leaves is delivered after it, which also shows that it was worth measuring; then
its shipper is ended, before the next one begins. Its own starts beside it, and is part of what it costs.

MLFLOW_HTTP_REQUEST_MAX_RETRIES is 0: with MLflow's default of 7 and pauses that double, each call of its own
client waits for minutes before it raises, where here it is measured until it does.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from mlflow_platform.client.spool import has_shipper, spools
from tests.bench.scale import report, run
from tests.client.programs import stop_shippers
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
#: An idle machine: at most this share of a core, over so many seconds. How many seconds it is waited for, and
#: how many for what was logged to be delivered.
IDLE, WINDOW, SETTLED, DELIVERED = 0.1, 0.5, 20.0, 180.0


def main(environment: dict[str, str], scratch: Path) -> bool:
    uri = environment["MLFLOW_TRACKING_URI"]
    base = {**environment, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "CRITICAL"}
    base |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    late, dead = {**base, "ASYNC": "true"}, {**base, "RAISES": "true"}
    with slow(uri) as slow_uri, closed_port() as dead_uri:
        cases = {
            "no-op": (base, "noop://", CALLS),
            "durable, healthy": (base, f"durable+{uri}", CALLS),
            "durable, slow": (base, f"durable+{slow_uri}", CALLS),
            "durable, dead": (base, f"durable+{dead_uri}", CALLS),
            "MLflow sync, healthy": (base, uri, CALLS // 20),
            "MLflow async, healthy": (late, uri, CALLS // 4),
            "MLflow sync, slow": (base, slow_uri, FEW),
            "MLflow async, slow": (late, slow_uri, CALLS // 40),
            "MLflow sync, dead": (dead, dead_uri, CALLS // 20),
            "MLflow async, dead": (late | dead, dead_uri, CALLS // 20),
        }
        found = {}
        for name, (variables, where, count) in cases.items():
            with alone(variables, scratch, delivered=name == "durable, healthy") as own:
                found[name] = calls(own, where, count)
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
    with alone(base, scratch) as own:
        imports(own, uri)
    with alone(base, scratch) as own:
        return held & memory(own)


def calls(environment: dict[str, str], uri: str, count: int) -> dict[str, list[float]]:
    ran = run(
        [sys.executable, "-m", "tests.bench.calls", str(count)], {**environment, "MLFLOW_TRACKING_URI": uri}
    )
    found: dict[str, list[float]] = json.loads(ran.output.splitlines()[-1])
    return found


@contextmanager
def alone(environment: dict[str, str], scratch: Path, *, delivered: bool = False) -> Iterator[dict[str, str]]:
    """An environment with a spool folder of its own, on an idle machine. Its shipper ends with the block, or
    once everything is delivered, where that is asked for."""
    folder = scratch / f"spool-{secrets.token_hex(4)}"
    settle()
    yield {**environment, "MLPLATFORM_SPOOL": str(folder)}
    if delivered:
        wait_for_delivery(folder)
    while any(has_shipper(spool) for spool in spools(folder)):
        stop_shippers(folder)
        time.sleep(0.05)


def settle() -> None:
    """Wait until the machine is idle: what ended before may have left its server at work."""
    end = time.monotonic() + SETTLED
    while (busy := cores_busy(WINDOW)) > IDLE:
        if time.monotonic() > end:
            print(f"  {busy:.1f} cores are busy with something else: what follows is too high", flush=True)
            return


def cores_busy(seconds: float) -> float:
    """Cores that other processes keep busy, over so many seconds; without those that give way to this one."""

    def used() -> dict[str, int]:
        found = {}
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and entry.name != str(os.getpid()):
                    # proc_pid_stat(5), from the third field on: utime, stime, nice.
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[16]) <= os.nice(0):
                        found[entry.name] = int(fields[11]) + int(fields[12])
        return found

    before = used()
    time.sleep(seconds)
    ticks = sum(now - before.get(process, 0) for process, now in used().items())
    return ticks / os.sysconf("SC_CLK_TCK") / seconds


def wait_for_delivery(folder: Path) -> None:
    (spool,) = spools(folder)
    end = time.monotonic() + DELIVERED
    while spool.waiting(spool.cursor()):
        if time.monotonic() > end:
            raise SystemExit(f"not delivered after {DELIVERED:.0f} s: {spool.cursor().problem}")
        time.sleep(0.1)
    if refused := spool.quarantined():
        raise SystemExit(f"the server refused {len(refused)} records: {refused[0]['error']}")


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
