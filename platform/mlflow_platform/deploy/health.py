"""What an object's status says: ready, not yet, or failed. Pure; reads what the API server returned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

#: A Job goes on for 10 minutes after the first failed pod (backoffLimit); what fails twice fails again.
FAILED_PODS = 2
#: A container that ended this often will not come up by waiting.
RESTARTS = 3
#: What a container waits for in vain, each with how long that may be a passing state, in seconds
#: (kubelet: pkg/kubelet/images/types.go, pkg/kubelet/container/sync_result.go).
HOPELESS = {
    "InvalidImageName": 0.0,
    "ErrImageNeverPull": 0.0,
    "ImagePullBackOff": 20.0,
    "ErrImagePull": 60.0,
    "CreateContainerConfigError": 30.0,
    "CreateContainerError": 30.0,
}


class State(Enum):
    READY = "ready"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True)
class Health:
    """`text` is for the screen: how far it is, or why it failed."""

    state: State
    text: str = ""


@dataclass(frozen=True)
class Trouble:
    """What keeps a pod from running. After `patience` seconds of it, waiting is of no use."""

    pod: str
    container: str
    reason: str
    message: str
    patience: float
    restarted: bool = False

    def __str__(self) -> str:
        where = f"pod {self.pod}" + (f", container {self.container}" if self.container else "")
        return f"{where}: {self.reason}" + (f": {self.message}" if self.message else "")


def health(found: Mapping[str, Any]) -> Health:
    """Of a Job, StatefulSet, Deployment or CloudNativePG Cluster; other kinds are ready when they exist."""
    status = found.get("status", {})
    match found["kind"]:
        case "Job":
            return _job(status)
        case "Deployment":
            return _deployment(found, status)
        case "StatefulSet":
            return _stateful_set(found, status)
        case "Cluster":
            wanted, ready = found["spec"]["instances"], status.get("readyInstances", 0)
            done = ready >= wanted
            return Health(State.READY if done else State.WAITING, f"{ready} of {wanted} instances")
    return Health(State.READY)


def trouble(pod: Mapping[str, Any]) -> Trouble | None:
    """What is wrong with a pod; None if it runs, has run, or only takes its time."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        state, last = container.get("state", {}), container.get("lastState", {})
        ended = state.get("terminated") or last.get("terminated") or {}
        waiting = state.get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        restarts = container.get("restartCount", 0)
        if reason in HOPELESS:
            return Trouble(name, container["name"], reason, message, HOPELESS[reason])
        if ended.get("exitCode"):
            if "running" in state:
                continue  # it ended once and runs again
            why = f"{ended.get('reason', 'Error')}, exit code {ended['exitCode']}"
            patience = 0.0 if restarts >= RESTARTS else float("inf")
            return Trouble(name, container["name"], why, "", patience, restarted="terminated" not in state)
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            # New nodes may be on their way.
            return Trouble(name, "", condition.get("reason", ""), condition.get("message", ""), float("inf"))
    return None


def _job(status: Mapping[str, Any]) -> Health:
    for condition in status.get("conditions", []):
        if condition["status"] == "True" and condition["type"] == "Complete":
            return Health(State.READY, "completed")
        if condition["status"] == "True" and condition["type"] == "Failed":
            return Health(State.FAILED, condition.get("message", ""))
    failed = status.get("failed", 0)
    if failed >= FAILED_PODS:
        return Health(State.FAILED, f"{failed} pods failed")
    if failed:
        return Health(State.WAITING, f"{failed} pod failed, another try")
    return Health(State.WAITING, "running" if status.get("active") else "not started")


def _deployment(found: Mapping[str, Any], status: Mapping[str, Any]) -> Health:
    wanted = found["spec"].get("replicas", 1)
    for condition in status.get("conditions", []):
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return Health(State.FAILED, condition.get("message", ""))
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    text = f"{min(updated, available)} of {wanted} pods"
    seen = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
    old = status.get("replicas", 0) - updated
    if seen and updated >= wanted and available >= wanted and not old:
        return Health(State.READY, text)
    return Health(State.WAITING, f"{text}, {old} old" if old else text)


def _stateful_set(found: Mapping[str, Any], status: Mapping[str, Any]) -> Health:
    wanted = found["spec"].get("replicas", 1)
    ready, updated = status.get("readyReplicas", 0), status.get("updatedReplicas", 0)
    # A set that was never changed has no updatedReplicas where the field is omitted at zero.
    current = status.get("currentRevision") == status.get("updateRevision") or updated >= wanted
    seen = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
    done = seen and current and ready >= wanted
    return Health(State.READY if done else State.WAITING, f"{ready} of {wanted} pods")
