"""Jobs that a command starts beside the servers, waits for and takes away again."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.deploy.phases import COMPONENT
from mlflow_platform.deploy.waiting import LINES, wait
from mlflow_platform.errors import Transient

#: What the pod takes over of the servers': their place and their rights.
_POD = (
    *("enableServiceLinks", "securityContext", "imagePullSecrets"),
    *("nodeSelector", "tolerations", "affinity", "priorityClassName"),
)
_CONTAINER = ("image", "imagePullPolicy", "securityContext")
#: As the bootstrap Job's: a quota that counts one of these refuses a pod that does not name it.
_RESOURCES = {
    "requests": {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "64Mi"},
    "limits": {"memory": "256Mi", "ephemeral-storage": "256Mi"},
}


def job(
    servers: Mapping[str, Any],
    component: str,
    command: Sequence[str],
    env: Sequence[Mapping[str, Any]],
    *,
    seconds: int,
    volumes: Sequence[str] = (),
) -> dict[str, Any]:
    """A Job of one try and at most `seconds`, made of the servers' own Deployment, `volumes` of it included.

    Its label `component` is its place in the chart's NetworkPolicies. Pure.
    """
    meta, pod = servers["metadata"], servers["spec"]["template"]["spec"]
    (server,) = (c for c in pod["containers"] if c["name"] == "server")
    release = meta["labels"]["app.kubernetes.io/instance"]
    labels = {**meta["labels"], COMPONENT: component}
    container = {
        "name": component,
        **{k: copy.deepcopy(server[k]) for k in _CONTAINER},
        "command": list(command),
        "env": list(env),
        "resources": copy.deepcopy(_RESOURCES),
        "volumeMounts": [m for m in server.get("volumeMounts", []) if m["name"] in volumes],
    }
    spec = {
        **{k: copy.deepcopy(pod[k]) for k in _POD if k in pod},
        "serviceAccountName": pod["serviceAccountName"],
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [v for v in pod.get("volumes", []) if v["name"] in volumes],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{release}-{component}", "namespace": meta["namespace"], "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": seconds,
            # Removed by the command when it has passed; one that failed stays a while to be looked at.
            "ttlSecondsAfterFinished": 3600,
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def run(
    cluster: Cluster,
    wanted: Mapping[str, Any],
    *,
    timeout: float,
    say: Callable[[str], None] = lambda _: None,
    keep: bool = False,
) -> list[str]:
    """A Job's last lines when it has passed and, unless `keep`, is gone. One of its name is stopped first.

    `Fatal` with the pod's own words if it fails, or after `timeout` seconds.
    """
    delete(cluster, wanted, timeout=timeout)
    cluster.apply(wanted)
    wait(cluster, [wanted], timeout=timeout, say=say)
    namespace, name = wanted["metadata"]["namespace"], wanted["metadata"]["name"]
    (container,) = wanted["spec"]["template"]["spec"]["containers"]
    lines = []
    for pod in _pods(cluster, namespace, name):
        lines += cluster.log(namespace, pod["metadata"]["name"], container["name"], lines=LINES).splitlines()
    if not keep:
        cluster.delete("batch/v1", "Job", namespace, name)
    return lines


def delete(cluster: Cluster, found: Mapping[str, Any], *, timeout: float) -> None:
    """Returns when the Job and its pods are gone: one that still ran could undo what comes next."""
    namespace, name = found["metadata"]["namespace"], found["metadata"]["name"]
    deadline = time.monotonic() + timeout
    cluster.delete("batch/v1", "Job", namespace, name)
    while cluster.get("batch/v1", "Job", namespace, name, metadata_only=True) or _pods(
        cluster, namespace, name
    ):
        if time.monotonic() > deadline:
            raise Transient(f"Job {name} is deleted, but does not go")
        time.sleep(0.2)


def _pods(cluster: Cluster, namespace: str, job: str) -> list[Mapping[str, Any]]:
    return cluster.find("v1", "Pod", namespace, {"batch.kubernetes.io/job-name": job})
