"""What objects and pods say of themselves, as Kubernetes 1.34 writes it."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_platform.deploy.health import Health, State, Trouble, health, trouble
from mlflow_platform.deploy.waiting import Patience

INFINITE = float("inf")


def workload(kind: str, spec: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": "w", "generation": 2}, "spec": spec, "status": status}


def condition(name: str, value: str = "True", **more: str) -> dict[str, Any]:
    return {"conditions": [{"type": name, "status": value, **more}]}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (workload("Job", {}, {}), Health(State.WAITING, "not started")),
        (workload("Job", {}, {"active": 1}), Health(State.WAITING, "running")),
        (workload("Job", {}, {"active": 1, "failed": 1}), Health(State.WAITING, "1 pod failed, another try")),
        (workload("Job", {}, {"active": 1, "failed": 2}), Health(State.FAILED, "2 pods failed")),
        (workload("Job", {}, {"failed": 2} | condition("Complete")), Health(State.READY, "completed")),
        (workload("Job", {}, condition("Failed", message="too late")), Health(State.FAILED, "too late")),
        (
            workload("Deployment", {"replicas": 2}, {"observedGeneration": 1, "availableReplicas": 2}),
            Health(State.WAITING, "0 of 2 pods"),
        ),
        (
            workload(
                "Deployment",
                {"replicas": 2},
                {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 2},
            ),
            Health(State.WAITING, "2 of 2 pods, 1 old"),
        ),
        (
            workload(
                "Deployment",
                {"replicas": 2},
                {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2},
            ),
            Health(State.READY, "2 of 2 pods"),
        ),
        (
            workload(  # of the generation before: says nothing of this one
                "Deployment",
                {"replicas": 2},
                {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2},
            ),
            Health(State.WAITING, "2 of 2 pods"),
        ),
        (
            workload(
                "Deployment",
                {"replicas": 1},
                condition("Progressing", "False", reason="ProgressDeadlineExceeded", message="late"),
            ),
            Health(State.FAILED, "late"),
        ),
        (
            workload(
                "StatefulSet",
                {"replicas": 1},
                {"observedGeneration": 2, "readyReplicas": 1, "currentRevision": "a", "updateRevision": "a"},
            ),
            Health(State.READY, "1 of 1 pods"),
        ),
        (
            workload(
                "StatefulSet",
                {"replicas": 1},
                {"observedGeneration": 2, "readyReplicas": 1, "currentRevision": "a", "updateRevision": "b"},
            ),
            Health(State.WAITING, "1 of 1 pods"),
        ),
        (workload("Cluster", {"instances": 3}, {}), Health(State.WAITING, "0 of 3 instances")),
        (
            workload("Cluster", {"instances": 3}, {"readyInstances": 3}),
            Health(State.READY, "3 of 3 instances"),
        ),
        (workload("ConfigMap", {}, {}), Health(State.READY)),
    ],
)
def test_health(found: dict[str, Any], expected: Health) -> None:
    assert health(found) == expected


def pod(state: dict[str, Any], *, last: dict[str, Any] | None = None, restarts: int = 0) -> dict[str, Any]:
    container = {"name": "c", "state": state, "lastState": last or {}, "restartCount": restarts}
    return {"metadata": {"name": "p"}, "status": {"containerStatuses": [container]}}


ENDED = {"terminated": {"exitCode": 1, "reason": "Error"}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}


@pytest.mark.parametrize(
    ("found", "words", "patience"),
    [
        (pod({"waiting": {"reason": "InvalidImageName"}}), "InvalidImageName", 0.0),
        (pod({"waiting": {"reason": "ImagePullBackOff", "message": "m"}}), "ImagePullBackOff: m", 20.0),
        (
            pod({"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}}),
            'secret "x" not found',
            30.0,
        ),
        (pod(ENDED), "pod p, container c: Error, exit code 1", INFINITE),
        (pod(BACK_OFF, last=ENDED, restarts=1), "Error, exit code 1", INFINITE),
        (pod(BACK_OFF, last=ENDED, restarts=3), "Error, exit code 1", 0.0),
        (
            pod(BACK_OFF, last={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, restarts=3),
            "OOMKilled, exit code 137",
            0.0,
        ),
        (
            {
                "metadata": {"name": "p"},
                "status": condition("PodScheduled", "False", reason="Unschedulable", message="0/1 nodes"),
            },
            "pod p: Unschedulable: 0/1 nodes",
            INFINITE,
        ),
    ],
)
def test_trouble(found: dict[str, Any], words: str, patience: float) -> None:
    one = trouble(found)
    assert one is not None
    assert words in str(one)
    assert one.patience == patience


@pytest.mark.parametrize(
    "found",
    [
        pod({"running": {}}),
        pod({"waiting": {"reason": "ContainerCreating"}}),
        pod({"waiting": {"reason": "PodInitializing"}}),
        pod({"terminated": {"exitCode": 0, "reason": "Completed"}}),
        pod({"running": {}}, last=ENDED, restarts=4),
        {"metadata": {"name": "p"}, "status": {}},
    ],
)
def test_a_pod_that_takes_its_time_is_no_trouble(found: dict[str, Any]) -> None:
    assert trouble(found) is None


def test_the_log_to_show_is_that_of_the_container_that_ended() -> None:
    ended, restarted = trouble(pod(ENDED)), trouble(pod(BACK_OFF, last=ENDED, restarts=3))
    assert ended is not None
    assert not ended.restarted
    assert restarted is not None
    assert restarted.restarted


def test_patience_counts_while_the_reason_goes_to_and_fro_and_ends_with_the_trouble() -> None:
    def pull(pod: str, reason: str, patience: float) -> Trouble:
        return Trouble(pod, "c", reason, "", patience)

    patience = Patience()
    backing_off, failing, other = pull("a", "BackOff", 20), pull("a", "Err", 60), pull("b", "BackOff", 20)
    assert patience.ended([backing_off], 0) == []
    assert patience.ended([failing, other], 15) == []
    assert patience.ended([backing_off, other], 25) == [backing_off]
    assert patience.ended([other], 30) == []
    assert patience.ended([backing_off, other], 36) == [other]  # a was well meanwhile: it starts anew
