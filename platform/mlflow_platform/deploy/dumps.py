"""The dumps that migrations made of a release's database: listed and brought back by a Job in the cluster."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.chart import Release
from mlflow_platform.deploy import jobs
from mlflow_platform.deploy.phases import COMPONENT
from mlflow_platform.errors import BadInput, Transient


def show(cluster: Cluster, release: Release, *, timeout: float) -> list[str]:
    """One line a dump, oldest first."""
    job = _job(cluster, release, "dumps", ["dumps"])
    return jobs.run(cluster, job, timeout=timeout)


def restore(cluster: Cluster, release: Release, name: str, *, timeout: float) -> list[str]:
    """Stop the servers and put a dump in place of what the database holds; what the Job said.

    The servers stay stopped: which version is to run on the restored schema is the next deployment's to say.
    """
    job = _job(cluster, release, "restore", ["restore", name, "--replace"])
    _stop(cluster, release, timeout)
    # It stays, as the pattern for the next one: the Job that migrated goes, so that it can run again.
    lines = jobs.run(cluster, job, timeout=timeout, keep=True)
    for old in _migrations(cluster, release):
        if old["metadata"]["name"] != job["metadata"]["name"]:
            jobs.delete(cluster, old, timeout=timeout)
    return lines


def _job(cluster: Cluster, release: Release, what: str, arguments: list[str]) -> Mapping[str, Any]:
    """As the Job that migrated: its image, Secrets, and way to database and store."""
    found = _migrations(cluster, release)
    if not found:
        raise BadInput(
            f"no Job has migrated a database for {release.name} in namespace {release.namespace}",
            remedy="deploy first",
        )
    pattern = max(found, key=lambda job: str(job["metadata"]["creationTimestamp"]))
    pod = copy.deepcopy(pattern["spec"]["template"]["spec"])
    (container,) = pod["containers"]
    container["command"] = ["python", "-m", "mlflow_platform.server.migrate", *arguments]
    labels = {k: v for k, v in pattern["metadata"]["labels"].items() if k.startswith("app.kubernetes.io/")}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{release.name}-{what}", "namespace": release.namespace, "labels": labels},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


def _migrations(cluster: Cluster, release: Release) -> list[Mapping[str, Any]]:
    labels = {"app.kubernetes.io/instance": release.name, COMPONENT: "migrate"}
    return cluster.find("batch/v1", "Job", release.namespace, labels)


def _stop(cluster: Cluster, release: Release, timeout: float) -> None:
    """Return when no pod of the release's Deployments is left: each is a client of the database."""
    labels = {"app.kubernetes.io/instance": release.name}
    found = cluster.find("apps/v1", "Deployment", release.namespace, labels)
    for deployment in found:
        name = deployment["metadata"]["name"]
        cluster.patch("apps/v1", "Deployment", release.namespace, name, {"spec": {"replicas": 0}})
    deadline = time.monotonic() + timeout
    for deployment in found:
        selector = deployment["spec"]["selector"]["matchLabels"]
        while pods := cluster.find("v1", "Pod", release.namespace, selector):
            if time.monotonic() > deadline:
                raise Transient(f"pod {pods[0]['metadata']['name']} does not end")
            time.sleep(0.5)
