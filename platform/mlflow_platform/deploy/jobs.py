"""Jobs that a deployment makes, waits for and takes away: what must be done from inside the cluster."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.deploy.waiting import LINES, wait
from mlflow_platform.errors import Transient

#: What a pod takes over from the pod it is like.
_KEPT = ("enableServiceLinks", "securityContext", "imagePullSecrets", "nodeSelector", "tolerations")


def like(
    name: str,
    labels: Mapping[str, str],
    deployment: Mapping[str, Any],
    container: Mapping[str, Any],
    volumes: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """A Job with the servers' image, account and place; `container` says what else it runs with. Pure."""
    pod = deployment["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    spec: dict[str, Any] = {
        **{k: copy.deepcopy(pod[k]) for k in _KEPT if k in pod},
        "serviceAccountName": pod["serviceAccountName"],
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "containers": [
            {
                **{k: copy.deepcopy(server[k]) for k in ("image", "imagePullPolicy", "securityContext")},
                **container,
            }
        ],
    }
    if volumes:
        spec["volumes"] = copy.deepcopy(list(volumes))
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": deployment["metadata"]["namespace"],
            "labels": dict(labels),
        },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": 300,
            # Removed by the deployment when it has passed; one that failed stays a while to be looked at.
            "ttlSecondsAfterFinished": 3600,
            "template": {"metadata": {"labels": dict(labels)}, "spec": spec},
        },
    }


def run(
    cluster: Cluster,
    job: Mapping[str, Any],
    *,
    timeout: float,
    say: Callable[[str], None] = lambda _: None,
    keep: bool = False,
) -> list[str]:
    """The last lines that its pod wrote. `Fatal` with them if it failed; passed, it goes unless `keep`."""
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    delete(cluster, namespace, name, timeout=timeout)
    cluster.apply(job)
    wait(cluster, [job], timeout=timeout, say=say)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    lines = []
    for pod in cluster.find("v1", "Pod", namespace, {"batch.kubernetes.io/job-name": name}):
        lines += cluster.log(namespace, pod["metadata"]["name"], container["name"], lines=LINES).splitlines()
    if not keep:
        cluster.delete("batch/v1", "Job", namespace, name)
    return lines


def delete(cluster: Cluster, namespace: str, name: str, *, timeout: float) -> None:
    """Return when a Job of that name, if there was one, is gone."""
    found = cluster.get("batch/v1", "Job", namespace, name, metadata_only=True)
    if found is None:
        return
    cluster.delete("batch/v1", "Job", namespace, name)
    deadline = time.monotonic() + timeout
    while (live := cluster.get("batch/v1", "Job", namespace, name, metadata_only=True)) is not None:
        if live["metadata"]["uid"] != found["metadata"]["uid"]:
            return
        if time.monotonic() > deadline:
            raise Transient(f"Job {name} is deleted, but does not go")
        time.sleep(0.2)
