"""What an operator leaves to nobody when it goes: the documents that it serves.

Those that are being deleted it carries out first. Of the rest our finalizer is taken off, since nobody could
delete them otherwise; the next operator puts it on again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.chart import Chart, Release
from mlflow_platform.deploy import phases
from mlflow_platform.errors import Transient
from mlflow_platform.model import DOCUMENTS, crd
from mlflow_platform.model.base import API_VERSION


def operated(going: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the release's operator is among these objects."""
    return any(f["metadata"].get("labels", {}).get(phases.COMPONENT) == phases.OPERATOR for f in going)


def settle(cluster: Cluster, release: Release, chart: Chart, deadline: float) -> bool:
    """Wait for documents that are being deleted: nobody would delete their objects afterwards. Whether the
    cluster has no other operator. `Transient` after `deadline` (`time.monotonic`)."""
    alone = not _other_operators(cluster, release, chart)
    while left := [d for d in _held(cluster, release, alone=alone) if "deletionTimestamp" in d["metadata"]]:
        if time.monotonic() > deadline:
            name = f"{left[0]['kind']}/{left[0]['metadata']['name']}"
            raise Transient(
                f"{name} is being deleted, but its object cannot be: {len(left)} such document(s)",
                remedy="mend it (kubectl describe says why), or annotate it with mlplatform.io/abandon=true",
            )
        time.sleep(0.5)
    return alone


def let_go(cluster: Cluster, release: Release, *, alone: bool) -> int:
    """Take our finalizer off the documents that stay; of how many."""
    found = _held(cluster, release, alone=alone)
    for document in found:
        metadata = document["metadata"]
        kept = [f for f in metadata["finalizers"] if f != crd.FINALIZER]
        body = {"metadata": {"finalizers": kept}}
        cluster.patch(API_VERSION, document["kind"], metadata.get("namespace", ""), metadata["name"], body)
    return len(found)


def made_for_documents(found: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The CronJobs of documents, and what these need."""
    return [
        one
        for one in found
        if any(o["apiVersion"] == API_VERSION for o in one["metadata"].get("ownerReferences", ()))
    ]


def wait_for_pods(
    cluster: Cluster, release: Release, chart: Chart, deadline: float, *, component: str = ""
) -> None:
    """Wait until the pods have ended, which hold volumes and answer requests; not for CloudNativePG's, which
    stay. `component`: for those alone."""
    labels = {k: v for k, v in phases.labels(release.name, chart.about["name"]).items() if "managed" not in k}
    if component:
        labels[phases.COMPONENT] = component
    while pods := [
        pod
        for pod in cluster.find("v1", "Pod", release.namespace, labels)
        if "cnpg.io/cluster" not in pod["metadata"]["labels"]
    ]:
        if time.monotonic() > deadline:
            raise Transient(f"pod {pods[0]['metadata']['name']} does not end")
        time.sleep(0.5)


def _other_operators(cluster: Cluster, release: Release, chart: Chart) -> list[Mapping[str, Any]]:
    """The operators of other releases, in the whole cluster."""
    labels = {"app.kubernetes.io/name": chart.about["name"], phases.COMPONENT: phases.OPERATOR}
    return [
        found
        for found in cluster.find("apps/v1", "Deployment", "", labels)
        if (found["metadata"]["namespace"], found["metadata"]["labels"].get("app.kubernetes.io/instance"))
        != (release.namespace, release.name)
    ]


def _held(cluster: Cluster, release: Release, *, alone: bool) -> list[Mapping[str, Any]]:
    """The documents with our finalizer that no operator serves when this release's is gone. `alone`: there
    is no other one, so that those are meant, too, whose tracking server names no operator."""
    servers = {
        found["metadata"]["name"]: (found["metadata"].get("annotations") or {}).get(crd.OPERATOR)
        for found in cluster.find(API_VERSION, "TrackingServer", "")
    }
    ours = f"{release.namespace}/{release.name}"
    return [
        document
        for kind in DOCUMENTS
        for document in cluster.find(API_VERSION, kind, "")
        if crd.FINALIZER in document["metadata"].get("finalizers", ())
        and ((its := servers.get(document["spec"].get("server", "default"))) == ours or (alone and not its))
    ]
