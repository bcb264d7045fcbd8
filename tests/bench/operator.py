"""5,000 Experiment documents in a real API server: made, kept, one changed, and the operator started again.

Everything is compared with what was measured in the same run: `mlplatform apply` of the same documents, and
bare listings of the same cluster and server.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.local import Stack
from mlflow_platform.model import DOCUMENTS
from mlflow_platform.model.base import API_VERSION
from tests.bench.scale import TAGS, report, run, write_folder
from tests.cluster import clusters
from tests.operator.conftest import established
from tests.operator.running import OPS, Process, Site, document, eventually

COUNT = int(os.environ.get("BENCH_DOCUMENTS", "5000"))
ROUNDS = 3
#: Long enough that listings and rounds do not disturb each other, in seconds.
INTERVAL = 12.0
PATIENCE = 900.0
MOST_CREATE, MOST_NO_OP, MOST_MEMORY_MB = 1.5, 1.5, 250
MOST_CHANGE_SECONDS, MOST_TAKEOVER_SECONDS = 2.0, 20.0


def documents(prefix: str) -> list[dict[str, Any]]:
    return [
        document(
            "Experiment", f"{prefix}-{i:05}", {"description": f"Number {i} of the benchmark.", "tags": TAGS}
        )
        for i in range(COUNT)
    ]


def ready(cluster: Cluster) -> int:
    """How many documents are as declared."""
    found = 0
    for items, _ in cluster.pages(API_VERSION, "Experiment"):
        for item in items:
            conditions = item.get("status", {}).get("conditions", ())
            found += any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return found


def listing(site: Site, environment: dict[str, str]) -> float:
    """Seconds that bare listings take: every kind of the cluster, and the server."""
    start = time.perf_counter()
    for kind in DOCUMENTS:
        for _ in site.cluster.pages(API_VERSION, kind):
            pass
    of_cluster = time.perf_counter() - start
    return of_cluster + float(run([sys.executable, "-m", "tests.bench.bare", "list"], environment).output)


def most_memory(process: Process) -> float:
    """The largest resident size so far, in MB."""
    text = Path(f"/proc/{process.process.pid}/status").read_text("ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else 0.0


def converged(site: Site, process: Process, name: str, value: str) -> float:
    """Seconds from an edit of one document to a condition that is about it."""
    start = time.perf_counter()
    patch = {"spec": {"description": value}}
    patched = site.cluster.patch(API_VERSION, "Experiment", OPS, name, patch)
    assert patched is not None
    generation = patched["metadata"]["generation"]

    def done() -> bool:
        found = site.find("Experiment", name)
        return bool(found["status"].get("observedGeneration") == generation)

    eventually(done, f"{name} is not seen", PATIENCE)
    return time.perf_counter() - start


def main(environment: dict[str, str], scratch: Path) -> bool:
    """Run it against the server of `environment`; whether every promise held."""
    with clusters.control_plane(scratch / "control-plane") as server:
        established(server)
        site = Site(server, Cluster.connect(server.kubeconfig), Stack(scratch / "stack"), scratch)
        site.server()
        folder = scratch / "documents"
        write_folder(folder, documents("cli"))
        applied = run(
            [sys.executable, "-m", "mlflow_platform.cli", "apply", str(folder), "--json"], environment
        )
        print(f"`mlplatform apply` of {COUNT:,} experiments: {applied.seconds:.1f} s")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(site.cluster.create, documents("op")))
        start = time.perf_counter()
        process = site.start(interval=INTERVAL)
        try:
            # To list thousands again and again would slow down what is measured: not before all may be there.
            while process.metric("patches_total") < COUNT or ready(site.cluster) < COUNT:
                assert time.perf_counter() - start < PATIENCE, process.log.read_text()[-3000:]
                time.sleep(0.5)
            took = time.perf_counter() - start
            print(f"the operator, from its start to {COUNT:,} documents Ready: {took:.1f} s")
            good = report(
                "create, operator / mlplatform apply",
                took / applied.seconds,
                took / applied.seconds <= MOST_CREATE,
                f"<= {MOST_CREATE}",
            )
            good &= _no_op(site, process, environment)
            changes = [converged(site, process, f"op-{i:05}", f"Changed {i}.") for i in range(10)]
            slowest = max(changes)
            print(f"one changed of {COUNT:,}: median {statistics.median(changes):.2f} s")
            good &= report("one changed, slowest of 10, s", slowest, slowest <= MOST_CHANGE_SECONDS, "<= 2")
            memory = most_memory(process)
            good &= report(
                "memory of the operator, MB", memory, memory < MOST_MEMORY_MB, f"< {MOST_MEMORY_MB}"
            )
            process.end(signal.SIGTERM)
            process = site.start(interval=INTERVAL)
            eventually(lambda: process.rounds() >= 2, "two rounds after a restart", PATIENCE)
            wrote = process.metric("requests_total", 'kind="writes"') + process.metric("patches_total")
            good &= report("writes after a restart", wrote, wrote == 0, "0")
            return good & _taken_over(site, process)
        finally:
            process.end(signal.SIGKILL)


def _taken_over(site: Site, leader: Process) -> bool:
    """Kill the leader in the middle of a document's change: how soon the other replica has made it."""
    standby = site.start(interval=INTERVAL)
    try:
        eventually(lambda: standby.ask("/readyz")[0] == 200, "the standby is ready", PATIENCE)
        site.cluster.apply(document("Experiment", "op-taken-over", {"tags": TAGS}))
        leader.end(signal.SIGKILL)
        start = time.perf_counter()
        eventually(lambda: standby.leading, "the standby leads", PATIENCE)
        took = time.perf_counter() - start
        site.reach("Experiment", "op-taken-over", "Synced")
        print(f"its first full round had ended after {time.perf_counter() - start:.1f} s")
        return report("takeover from a killed leader, s", took, took <= MOST_TAKEOVER_SECONDS, "<= 20")
    finally:
        standby.end(signal.SIGKILL)


def _no_op(site: Site, process: Process, environment: dict[str, str]) -> bool:
    process.another_round()  # the one that has made everything may have left a count to write
    writes = process.metric("requests_total", 'kind="writes"')
    patches = process.metric("patches_total")
    listings, rounds = [], []
    for _ in range(ROUNDS):
        listings.append(listing(site, environment))
        reads, before = process.metric("requests_total", 'kind="reads"'), process.rounds()
        eventually(lambda before=before: process.rounds() >= before + 2, "another round", PATIENCE)
        rounds.append(process.metric("round_seconds"))
        count = process.rounds() - before
        reads = (process.metric("requests_total", 'kind="reads"') - reads) / count
    bare, ours = statistics.median(listings), statistics.median(rounds)
    print(
        f"bare listings {bare:.2f} s, a full round {ours:.2f} s (medians of {ROUNDS}), "
        f"{reads:.0f} reads of MLflow"
    )
    good = report("no-op round / bare listings", ours / bare, ours / bare <= MOST_NO_OP, f"<= {MOST_NO_OP}")
    wrote = process.metric("requests_total", 'kind="writes"') - writes
    good &= report("writes of no-op rounds to MLflow", wrote, wrote == 0, "0")
    patched = process.metric("patches_total") - patches
    return good & report("patches of no-op rounds", patched, patched == 0, "0")
