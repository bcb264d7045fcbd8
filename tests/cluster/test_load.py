"""Clients log while the platform is changed and broken: no request fails, nothing acknowledged is lost.

Figures are printed, not asserted: they are the machine's. `make soak` runs the long sweeps.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.acknowledged import Server, differences, failures, figures
from tests.cluster.logging_load import Record
from tests.cluster.release import Release

ROOT = Path(__file__).parents[2]
#: Seconds that something which must happen may take before a test gives up.
PATIENCE = 180
CLIENTS = 20
PLAIN = 2


@dataclass
class Load:
    """Running clients, and what they wrote down so far."""

    folder: Path
    server: Server
    experiment: str
    processes: dict[str, subprocess.Popen[bytes]]

    def records(self, kind: str | None = None) -> list[Record]:
        """Of `raw`, `mlflow` or both, in the order of their sending."""
        found: list[Record] = []
        for name in self.processes if kind is None else [kind]:
            text = (self.folder / name).read_text("utf-8")
            found += [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return sorted(found, key=lambda r: r["at"])

    def wait_for_all(self, since: float, *calls: str) -> None:
        """Until each client has had a request acknowledged, one of `calls` if given, sent after `since`."""
        wanted = CLIENTS + PLAIN

        def served() -> bool:
            good = [r for r in self.records() if r["at"] > since and "error" not in r]
            return len({r["client"] for r in good if not calls or r["call"] in calls}) >= wanted

        until(served)

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for name, process in self.processes.items():
            assert process.wait(PATIENCE) == 0, (self.folder / f"{name}.log").read_text()

    def nothing_lost_or_doubled(self) -> None:
        # MLflow's own client sends an unanswered create again: with a run more, if the first came through.
        raw, plain = self.records("raw"), self.records("mlflow")
        assert differences(raw + plain, self.server, self.experiment, retried=any("error" in r for r in plain)) == []


@contextlib.contextmanager
def logging(live: Release, folder: Path, clients: int = CLIENTS) -> Iterator[Load]:
    """20 raw clients and 2 of MLflow's own; ended with the block, if the block did not stop them."""
    user, password = live.login()
    server = Server(live.address, live.host, (user, password))
    name = f"load-{secrets.token_hex(4)}"
    experiment = str(server.ask("POST", "experiments/create", name=name)["experiment_id"])
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")},
        "MLFLOW_TRACKING_USERNAME": user,
        "MLFLOW_TRACKING_PASSWORD": password,
    }
    processes = {}
    with contextlib.ExitStack() as stack:
        for kind, count in (("raw", clients), ("mlflow", PLAIN)):
            log = stack.enter_context((folder / f"{kind}.log").open("wb"))
            (folder / kind).touch()
            processes[kind] = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.logging_load", kind, "--uri", f"http://{live.host}"]
                + ["--address", live.address, "--experiment", experiment, "--record", str(folder / kind)]
                + ["--clients", str(count), "--first", "0" if kind == "raw" else "1000"],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )
            stack.callback(end, processes[kind])
        load = Load(folder, server, experiment, processes)
        load.wait_for_all(0)
        yield load
    server.ask("POST", "experiments/delete", experiment_id=experiment)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.5)


def kubectl(live: Release, *arguments: str) -> str:
    return live.node.kubectl("-n", live.namespace, *arguments, timeout=PATIENCE + 10)


def pods(live: Release, component: str) -> dict[str, Any]:
    """Those not ending, by uid."""
    label = f"app.kubernetes.io/component={component}"
    found = json.loads(kubectl(live, "get", "pods", "-l", label, "-o", "json"))["items"]
    return {p["metadata"]["uid"]: p for p in found}


def ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def restarts(live: Release) -> int:
    statuses = [s for p in pods(live, "server").values() for s in p["status"].get("containerStatuses", [])]
    return sum(s["restartCount"] for s in statuses)


def roll_out(live: Release) -> None:
    """Every server replaced, and the old ones ended."""
    before = pods(live, "server").keys()
    kubectl(live, "rollout", "restart", "deployment/mlflow-server")
    kubectl(live, "rollout", "status", "deployment/mlflow-server", f"--timeout={PATIENCE}s")
    until(lambda: not before & pods(live, "server").keys())


def scale(live: Release, count: int) -> None:
    """So many servers ready, and the others ended."""
    kubectl(live, "scale", "deployment/mlflow-server", f"--replicas={count}")

    def settled() -> bool:
        found = pods(live, "server")
        return len(found) == count and all(map(ready, found.values()))

    until(settled)


def kill(live: Release, component: str, *, stay_away: bool = False) -> tuple[set[str], float]:
    """Every process of the pod at once (SIGKILL), then the pod by force; the pod's uid, and when (Unix time).

    With `stay_away` no other takes its place until the StatefulSet is scaled again.
    """
    victims = set(pods(live, component))
    assert len(victims) == 1
    killed = time.time()
    for group in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if any(uid in group.read_text() for uid in victims):
                os.kill(int(group.parent.name), signal.SIGKILL)
    if stay_away:
        kubectl(live, "scale", f"statefulset/mlflow-{component}", "--replicas=0")
    kubectl(live, "delete", "pod", f"mlflow-{component}-0", "--force", "--grace-period=0", "--wait=false")
    return victims, killed


def back(live: Release, component: str, victims: set[str]) -> float:
    """When another pod of the component became ready, as it is seen (Unix time)."""
    until(lambda: any(ready(p) for uid, p in pods(live, component).items() if uid not in victims))
    return time.time()


def report(what: str, records: list[Record], since: float, before: float) -> None:
    print(f"{what}: {figures([r for r in records if since <= r['at'] < before])}, in {before - since:.0f} s")


def outage(records: list[Record], killed: float, came_back: float) -> None:
    failed = [r for r in records if "error" in r and r["at"] + r["took"] > killed]
    first_good = {}
    last_failed = max((r["at"] + r["took"] for r in failed), default=killed)
    for r in records:
        if "error" not in r and r["at"] > killed:
            first_good.setdefault(r["call"], r["at"] + r["took"])
    print(
        f"  pod ready after {came_back - killed:.1f} s; {len(failed)} requests failed; the last one ended "
        f"{last_failed - killed:.1f} s after the kill, {last_failed - came_back:+.1f} s after the pod was ready"
    )


def test_no_request_fails_in_a_rollout_and_while_servers_come_and_go(live: Release, tmp_path: Path) -> None:
    assert len(pods(live, "server")) == 2
    with logging(live, tmp_path) as load:
        began = time.time()
        time.sleep(10)
        rollout = time.time()
        roll_out(live)
        grow = time.time()
        scale(live, 4)
        load.wait_for_all(time.time())
        shrink = time.time()
        scale(live, 2)
        load.wait_for_all(time.time())
        ended = time.time()
        load.stop()
        records = load.records()
        for kind in ("raw", "mlflow"):
            mine = load.records(kind)
            print()
            report(f"{kind}, steady", mine, began, rollout)
            report(f"{kind}, rollout", mine, rollout, grow)
            report(f"{kind}, 2 to 4", mine, grow, shrink)
            report(f"{kind}, 4 to 2", mine, shrink, ended)
        assert failures(records) == []
        load.nothing_lost_or_doubled()
    assert restarts(live) == 0


def test_it_recovers_when_postgres_is_killed(live: Release, tmp_path: Path) -> None:
    with logging(live, tmp_path) as load:
        began = time.time()
        time.sleep(5)
        before = pods(live, "server").keys()
        victims, killed = kill(live, "postgres")
        came_back = back(live, "postgres", victims)
        load.wait_for_all(came_back)
        ended = time.time()
        load.stop()
        print()
        report("steady", load.records("raw"), began, killed)
        report("Postgres killed", load.records("raw"), killed, ended)
        outage(load.records("raw"), killed, came_back)
        assert not failures([r for r in load.records() if r["at"] + r["took"] < killed])
        load.nothing_lost_or_doubled()
    assert pods(live, "server").keys() == before
    assert restarts(live) == 0


def test_servers_stay_ready_and_log_on_while_the_store_is_away(live: Release, tmp_path: Path) -> None:
    with logging(live, tmp_path) as load, watched_endpoints(live) as seen:
        began = time.time()
        time.sleep(5)
        addresses = set(seen[-1])
        assert len(addresses) == 2
        victims, killed = kill(live, "store", stay_away=True)
        time.sleep(20)  # longer than three probes, after which a server that failed them were left out
        kubectl(live, "scale", "statefulset/mlflow-store", "--replicas=1")
        came_back = back(live, "store", victims)
        load.wait_for_all(came_back, "artifact")
        ended = time.time()
        load.stop()
        print()
        report("steady", load.records("raw"), began, killed)
        report("store away", load.records("raw"), killed, ended)
        outage(load.records("raw"), killed, came_back)
        assert all(addresses == set(s) for s in seen)
        records = load.records()
        assert failures([r for r in records if r["call"] != "artifact"]) == []
        assert failures([r for r in records if r["call"] == "artifact" and r["at"] > killed]) != []
        load.nothing_lost_or_doubled()
    assert restarts(live) == 0


@contextlib.contextmanager
def watched_endpoints(live: Release) -> Iterator[list[list[str]]]:
    """The Service's ready addresses: as they are, and then after each change."""
    command = [str(live.node.kubectl_path), "--kubeconfig", str(live.node.kubeconfig), "-n", live.namespace]
    ready_ones = "{range .endpoints[?(@.conditions.ready==true)]}{.addresses[0]}{' '}{end}{'\\n'}"
    watch = subprocess.Popen(
        [*command, "get", "endpointslices", "-l", "kubernetes.io/service-name=mlflow", "--watch"]
        + ["-o", f"jsonpath={ready_ones}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    seen: list[list[str]] = []
    assert watch.stdout is not None

    def read() -> None:
        assert watch.stdout is not None
        seen.extend(line.split() for line in watch.stdout)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        until(lambda: bool(seen))
        yield seen
    finally:
        watch.kill()
        reader.join()
        watch.stdout.close()
        watch.wait()
