"""Waits for workloads, and stops as soon as one cannot succeed, with the failing pod's own words."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.deploy.health import Health, State, Trouble, health, trouble
from mlflow_platform.errors import Fatal

#: How often the objects are looked at, in seconds.
INTERVAL = 1.0
#: How many of a pod's last lines are shown.
LINES = 20


def wait(
    cluster: Cluster, objects: Sequence[Mapping[str, Any]], *, timeout: float, say: Callable[[str], None]
) -> None:
    """Return when all are ready. `Fatal` when one failed, or after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    patience = Patience()
    while True:
        looked = [_look(cluster, wanted) for wanted in objects]
        waiting = [(live, found) for live, found in looked if found.state is not State.READY]
        if not waiting:
            return
        troubles = {live["metadata"]["uid"]: _troubles(cluster, live) for live, _ in waiting}
        now = time.monotonic()
        hopeless = patience.ended([t for some in troubles.values() for t in some], now)
        texts = []
        for live, found in waiting:
            its = troubles[live["metadata"]["uid"]]
            worst = [t for t in its if t in hopeless]
            if found.state is State.FAILED or worst or now > deadline:
                raise _failure(cluster, live, found, worst or its, late=now > deadline)
            problem = f" ({its[0]})" if its else ""
            texts.append(f"{live['metadata']['name']}: {found.text}{problem}")
        say("; ".join(texts))
        time.sleep(INTERVAL)


class Patience:
    """How long each container has been in trouble."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], float] = {}

    def ended(self, troubles: Sequence[Trouble], now: float) -> list[Trouble]:
        """Those that have lasted too long; `now` is in seconds. To be asked with all there are, each time."""
        # Not by reason: a container goes to and fro between failing and waiting for another try.
        self._since = {(t.pod, t.container): self._since.get((t.pod, t.container), now) for t in troubles}
        return [t for t in troubles if now - self._since[t.pod, t.container] >= t.patience]


def _look(cluster: Cluster, wanted: Mapping[str, Any]) -> tuple[Mapping[str, Any], Health]:
    meta = wanted["metadata"]
    live = cluster.get(wanted["apiVersion"], wanted["kind"], meta["namespace"], meta["name"])
    if live is None:
        raise Fatal(
            f"{wanted['kind']} {meta['name']} was deleted while it was waited for",
            remedy="see who did, then deploy again",
        )
    return live, health(live)


def _troubles(cluster: Cluster, live: Mapping[str, Any]) -> list[Trouble]:
    return [t for pod in _pods(cluster, live) if (t := trouble(pod)) is not None]


def _pods(cluster: Cluster, live: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The pods of the object's present template, not those that it replaces."""
    namespace, name = live["metadata"]["namespace"], live["metadata"]["name"]
    match live["kind"]:
        case "Job":
            labels = {"batch.kubernetes.io/job-name": name}
        case "StatefulSet":
            labels = dict(live["spec"]["selector"]["matchLabels"])
            if revision := live.get("status", {}).get("updateRevision"):
                labels["controller-revision-hash"] = revision
        case "Deployment":
            labels = dict(live["spec"]["selector"]["matchLabels"])
            number = "deployment.kubernetes.io/revision"
            wanted = live["metadata"].get("annotations", {}).get(number)
            for replicas in cluster.find("apps/v1", "ReplicaSet", namespace, labels):
                if replicas["metadata"].get("annotations", {}).get(number) == wanted:
                    labels["pod-template-hash"] = replicas["metadata"]["labels"]["pod-template-hash"]
        case "Cluster":
            labels = {"cnpg.io/cluster": name}
        case _:
            return []
    return cluster.find("v1", "Pod", namespace, labels)


def _failure(
    cluster: Cluster, live: Mapping[str, Any], found: Health, troubles: Sequence[Trouble], *, late: bool
) -> Fatal:
    kind, name, namespace = live["kind"], live["metadata"]["name"], live["metadata"]["namespace"]
    how = "is not ready in time" if late and found.state is State.WAITING else "failed"
    parts = [f"{kind} {name} {how}" + (f": {found.text}" if found.text else "")]
    for one in troubles[:1]:
        parts.append(str(one))
        if one.container:
            text = cluster.log(namespace, one.pod, one.container, lines=LINES, previous=one.restarted)
            parts += [f"  | {line}" for line in text.splitlines()]
    if not troubles:
        parts += _events(cluster, live) or _unready(cluster, live)
    return Fatal(
        "\n    ".join(parts),
        remedy=f"mend it and deploy again; more: kubectl -n {namespace} describe {kind.lower()} {name}",
    )


def _events(cluster: Cluster, live: Mapping[str, Any]) -> list[str]:
    """What its controller complains of: a quota, a policy."""
    uid = live["metadata"]["uid"]
    events = cluster.find("v1", "Event", live["metadata"]["namespace"])
    of_it = [e for e in events if e["involvedObject"].get("uid") == uid and e.get("type") == "Warning"]
    of_it.sort(key=lambda e: e.get("lastTimestamp") or e["metadata"]["creationTimestamp"])
    return [f"{e['reason']}: {e['message']}" for e in of_it[-3:]]


def _unready(cluster: Cluster, live: Mapping[str, Any]) -> list[str]:
    """The last words of a pod that runs and never says that it is ready or, a Job's, that it is done."""
    for pod in _pods(cluster, live):
        status = pod.get("status", {})
        for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
            ready = container.get("ready")
            if "running" in container.get("state", {}) and (live["kind"] == "Job" or not ready):
                place = pod["metadata"]["namespace"], pod["metadata"]["name"], container["name"]
                lines = cluster.log(*place, lines=LINES).splitlines()
                how = "goes on" if ready else "is not ready"
                return [f"pod {place[1]}, container {place[2]} {how}", *(f"  | {x}" for x in lines)]
    return []
