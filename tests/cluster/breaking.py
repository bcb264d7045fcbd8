"""What happens to a release on purpose: rollouts, scaling, pods killed, hosts that vanish."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.cluster.clusters import program
from tests.cluster.release import Release

#: Seconds that something which must happen may take before a test gives up.
PATIENCE = 180


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {seconds:.0f} s"
        time.sleep(0.5)


def kubectl(live: Release, *arguments: str) -> str:
    return live.node.kubectl("-n", live.namespace, *arguments, timeout=PATIENCE + 10)


def pods(live: Release, component: str) -> dict[str, Any]:
    """By uid."""
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
    """Every process of the component's one pod at once (SIGKILL), then the pod by force.

    With `stay_away` no other takes its place until the StatefulSet is scaled again. Returns the pod's uid,
    and when it was killed (Unix time).
    """
    victims = set(pods(live, component))
    assert len(victims) == 1
    killed = time.time()
    kill_processes(victims)
    if stay_away:
        kubectl(live, "scale", f"statefulset/mlflow-{component}", "--replicas=0")
    kubectl(live, "delete", "pod", f"mlflow-{component}-0", "--force", "--grace-period=0", "--wait=false")
    return victims, killed


def kill_processes(uids: set[str]) -> None:
    """Those of the pods: their cgroups bear the pods' uids."""
    for group in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if any(uid in group.read_text() for uid in uids):
                os.kill(int(group.parent.name), signal.SIGKILL)


def back(live: Release, component: str, victims: set[str]) -> float:
    """When another pod of the component was seen ready (Unix time)."""
    until(lambda: any(ready(p) for uid, p in pods(live, component).items() if uid not in victims))
    return time.time()


@contextlib.contextmanager
def silent(live: Release, component: str) -> Iterator[None]:
    """What is sent to the component's pod vanishes, without a refusal; what it sends itself still arrives."""
    (pod,) = pods(live, component).values()
    outer = (live.node.folder / "run/outer").read_text().split()[0]
    inside = [program("nsenter", package="util-linux"), "-t", outer, "-n", program("ip", package="iproute2")]
    hole = ["blackhole", f"{pod['status']['podIP']}/32"]
    subprocess.run([*inside, "route", "add", *hole], check=True)
    try:
        yield
    finally:
        subprocess.run([*inside, "route", "del", *hole], check=True)


@contextlib.contextmanager
def watched_endpoints(live: Release) -> Iterator[list[list[str]]]:
    """The Service's ready addresses: as they are, and then after each change."""
    command = [str(live.node.kubectl_path), "--kubeconfig", str(live.node.kubeconfig), "-n", live.namespace]
    ready_ones = "{range .endpoints[?(@.conditions.ready==true)]}{.addresses[0]}{' '}{end}{'\\n'}"
    watch = subprocess.Popen(
        [
            *(*command, "get", "endpointslices", "-l", "kubernetes.io/service-name=mlflow", "--watch"),
            *("-o", f"jsonpath={ready_ones}"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    seen: list[list[str]] = []

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
        watch.communicate()
