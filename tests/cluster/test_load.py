"""Clients log while the platform is changed and broken: no request fails, nothing acknowledged is lost.

The clients run on this machine: to the node's kube-proxy their packets are like a pod's, both enter by the
same chain (nat PREROUTING). Figures are printed, not asserted: they are the machine's. `make soak` runs the
long sweeps.
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
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.acknowledged import Server, differences, failures, figures
from tests.cluster.breaking import (
    PATIENCE,
    back,
    kill,
    kill_processes,
    kubectl,
    pods,
    ready,
    restarts,
    roll_out,
    scale,
    silent,
    until,
    watched_endpoints,
)
from tests.cluster.logging_load import Record
from tests.cluster.release import Release

ROOT = Path(__file__).parents[2]
CLIENTS = {"raw": 20, "mlflow": 2}


@dataclass
class Load:
    """Running clients, and what they wrote down so far."""

    folder: Path
    server: Server
    experiment: str
    clients: dict[str, int]
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

        def served() -> bool:
            good = [r for r in self.records() if r["at"] > since and "error" not in r]
            return len({r["client"] for r in good if not calls or r["call"] in calls}) == sum(
                self.clients.values()
            )

        until(served)

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for name, process in self.processes.items():
            assert process.wait(PATIENCE) == 0, (self.folder / f"{name}.log").read_text()

    def nothing_lost_or_doubled(self) -> None:
        # MLflow's own client sends an unanswered create again: with a run more, if the first came through.
        records = self.records()
        retried = any("error" in r for r in records)
        assert differences(records, self.server, self.experiment, retried=retried) == []


@contextlib.contextmanager
def logging(live: Release, folder: Path, **clients: int) -> Iterator[Load]:
    """Clients that log from now to the end of the block, or until they are stopped before."""
    scale(live, 2)  # as it is already, once the last one that a test before replaced has ended
    clients = CLIENTS | clients
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
        for kind, count in clients.items():
            log = stack.enter_context((folder / f"{kind}.log").open("wb"))
            (folder / kind).touch()
            processes[kind] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.cluster.logging_load", kind, "--record", folder / kind),
                    *("--uri", f"http://{live.host}", "--address", live.address, "--experiment", experiment),
                    *("--clients", str(count), "--first", "0" if kind == "raw" else "1000"),
                ],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )
            stack.callback(_end, processes[kind])
        load = Load(folder, server, experiment, clients, processes)
        load.wait_for_all(0)
        yield load
    server.ask("POST", "experiments/delete", experiment_id=experiment)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def report(what: str, records: list[Record], since: float, before: float) -> None:
    print(
        f"\n{what}: {figures([r for r in records if since <= r['at'] < before])}, in {before - since:.0f} s"
    )


def report_outage(records: list[Record], killed: float, came_back: float) -> None:
    failed = [r["at"] + r["took"] - killed for r in records if "error" in r and r["at"] + r["took"] > killed]
    last = max(failed, default=0)
    print(
        f"  pod ready after {came_back - killed:.1f} s; {len(failed)} requests failed, the last one after "
        f"{last:.1f} s: {last + killed - came_back:+.1f} s from when the pod was ready"
    )


def test_no_request_fails_in_a_rollout_and_while_servers_come_and_go(live: Release, tmp_path: Path) -> None:
    with logging(live, tmp_path) as load:
        times = [time.time()]
        time.sleep(10)
        times.append(time.time())
        roll_out(live)
        times.append(time.time())
        scale(live, 4)
        load.wait_for_all(time.time())
        times.append(time.time())
        scale(live, 2)
        load.wait_for_all(time.time())
        times.append(time.time())
        load.stop()
        for kind in load.clients:
            for i, what in enumerate(("steady", "rollout", "2 to 4", "4 to 2")):
                report(f"{kind}, {what}", load.records(kind), times[i], times[i + 1])
        assert failures(load.records()) == []
        load.nothing_lost_or_doubled()
    assert restarts(live) == 0


@pytest.mark.parametrize("vanishes", [False, True], ids=["killed", "vanished"])
def test_it_recovers_when_postgres_goes_away(live: Release, tmp_path: Path, vanishes: bool) -> None:
    with logging(live, tmp_path) as load:
        began = time.time()
        time.sleep(5)
        before = pods(live, "server").keys()
        with silent(live, "postgres") if vanishes else contextlib.nullcontext():
            victims, killed = kill(live, "postgres")
            came_back = back(live, "postgres", victims)
            load.wait_for_all(came_back)
        ended = time.time()
        load.stop()
        report("steady", load.records("raw"), began, killed)
        report("Postgres away", load.records("raw"), killed, ended)
        report_outage(load.records("raw"), killed, came_back)
        assert failures([r for r in load.records() if r["at"] + r["took"] < killed]) == []
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
        report("steady", load.records("raw"), began, killed)
        report("store away", load.records("raw"), killed, ended)
        report_outage(load.records("raw"), killed, came_back)
        assert all(set(s) == addresses for s in seen)
        records = load.records()
        assert failures([r for r in records if r["call"] != "artifact"]) == []
        assert failures([r for r in records if r["call"] == "artifact" and r["at"] > killed]) != []
        load.nothing_lost_or_doubled()
    assert restarts(live) == 0


def test_two_postgres_never_run_on_one_volume(live: Release) -> None:
    """A second one waits for the lock of the first, wherever it runs."""
    lock = ["flock", "--nonblock", "--conflict-exit-code", "9", "/var/lib/postgresql/data/.mlplatform-lock"]
    second = live.node.try_kubectl("-n", live.namespace, "exec", "mlflow-postgres-0", "--", *lock, "true")
    assert "exit code 9" in second.stderr


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_soak_changes_fail_no_request(live: Release, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    choice = random.Random(seed)
    print(f"seed {seed}")
    with logging(live, tmp_path, raw=40, mlflow=4) as load:
        for _ in range(10):
            time.sleep(10 * choice.random())
            began, what = time.time(), choice.choice(["rollout", "2", "3", "4"])
            roll_out(live) if what == "rollout" else scale(live, int(what))
            load.wait_for_all(time.time())
            report(what, load.records(), began, time.time())
        scale(live, 2)
        load.stop()
        assert failures(load.records()) == []
        load.nothing_lost_or_doubled()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_soak_nothing_acknowledged_is_lost_whatever_is_killed(live: Release, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    choice = random.Random(seed)
    print(f"seed {seed}")
    with logging(live, tmp_path, raw=40, mlflow=4) as load:
        for _ in range(12):
            time.sleep(10 * choice.random())
            began, what = time.time(), choice.choice(["postgres", "store", "server"])
            if what == "server":  # the kubelet starts its container again
                kill_processes({choice.choice(list(pods(live, "server")))})
            else:
                with silent(live, what) if choice.random() < 0.5 else contextlib.nullcontext():
                    back(live, what, kill(live, what)[0])
            load.wait_for_all(time.time(), "artifact")
            report(what, load.records(), began, time.time())
        until(lambda: [ready(p) for p in pods(live, "server").values()] == [True, True])
        load.stop()
        load.nothing_lost_or_doubled()
