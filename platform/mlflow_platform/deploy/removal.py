"""Takes a deployment away. Data stay unless told otherwise: volumes, and the Secrets that open them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.chart import Chart, Release
from mlflow_platform.deploy import phases, turns
from mlflow_platform.deploy.deployment import existing
from mlflow_platform.errors import Transient
from mlflow_platform.model import DOCUMENTS, crd
from mlflow_platform.model.base import API_VERSION

#: Made by the bootstrap Job (chart: bootstrap.yaml.j2) and by rotations, after the release's name.
SECRETS = tuple(f"-{what}{end}" for what in ("auth", "database", "store") for end in ("", "-rotation"))


def undeploy(
    cluster: Cluster, release: Release, chart: Chart, *, delete_data: bool, timeout: float = 300.0
) -> list[str]:
    """What was deleted, as "Kind/name"; returns when all of it is gone, within `timeout` seconds."""
    if not existing(cluster, release, chart) and not (delete_data and data_of(cluster, release, chart)):
        return []  # also where there is no such namespace
    with turns.turn(cluster, release, timeout=timeout, last=True):
        found = _remove(cluster, release, chart, delete_data=delete_data, deadline=time.monotonic() + timeout)
    return ["/".join(phases.key(f)) for f in found]


def _remove(
    cluster: Cluster, release: Release, chart: Chart, *, delete_data: bool, deadline: float
) -> list[Mapping[str, Any]]:
    found = existing(cluster, release, chart)
    operated = any(f["metadata"].get("labels", {}).get(phases.COMPONENT) == phases.OPERATOR for f in found)
    alone = operated and not _other_operators(cluster, release, chart)
    if operated:
        _settle(cluster, release, deadline, alone=alone)
    pods = [f for f in found if f["kind"] in ("Deployment", "StatefulSet", "Job")]
    _delete(cluster, [f for f in found if f["kind"] != "NetworkPolicy"], deadline)
    if pods:
        _gone(cluster, release, chart, deadline)
    if operated:
        # What the operator has made again while it was being deleted.
        _delete(cluster, [f for f in existing(cluster, release, chart) if f["kind"] == "CronJob"], deadline)
        _release(cluster, release, alone=alone)
    # Last, so that no pod ever runs without the rules that fence it in.
    _delete(cluster, [f for f in found if f["kind"] == "NetworkPolicy"], deadline)
    if delete_data:
        data = data_of(cluster, release, chart)
        _delete(cluster, data, deadline)
        found += data
    return found


def _other_operators(cluster: Cluster, release: Release, chart: Chart) -> list[Mapping[str, Any]]:
    """The operators of other releases, in the whole cluster."""
    labels = {"app.kubernetes.io/name": chart.about["name"], phases.COMPONENT: phases.OPERATOR}
    return [
        found
        for found in cluster.find("apps/v1", "Deployment", "", labels)
        if (found["metadata"]["namespace"], found["metadata"]["labels"].get("app.kubernetes.io/instance"))
        != (release.namespace, release.name)
    ]


def _settle(cluster: Cluster, release: Release, deadline: float, *, alone: bool) -> None:
    """Wait for documents that are being deleted: nobody would delete their objects afterwards."""
    while left := [d for d in _held(cluster, release, alone=alone) if "deletionTimestamp" in d["metadata"]]:
        if time.monotonic() > deadline:
            name = f"{left[0]['kind']}/{left[0]['metadata']['name']}"
            raise Transient(
                f"{name} is being deleted, but its object cannot be: {len(left)} such document(s)",
                remedy="mend it (kubectl describe says why), or annotate it with mlplatform.io/abandon=true",
            )
        time.sleep(0.5)


def _release(cluster: Cluster, release: Release, *, alone: bool) -> None:
    """Take our finalizer off the documents that stay: without the operator they could never be deleted. The
    next operator puts it on again."""
    for document in _held(cluster, release, alone=alone):
        metadata = document["metadata"]
        kept = [f for f in metadata["finalizers"] if f != crd.FINALIZER]
        body = {"metadata": {"finalizers": kept}}
        cluster.patch(API_VERSION, document["kind"], metadata.get("namespace", ""), metadata["name"], body)


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


def data_of(cluster: Cluster, release: Release, chart: Chart) -> list[Mapping[str, Any]]:
    """Volumes, databases and Secrets that belong to the release alone. Secrets' content is not read."""
    namespace = release.namespace
    labels = {k: v for k, v in phases.labels(release.name, chart.about["name"]).items() if "managed" not in k}
    found = cluster.find("postgresql.cnpg.io/v1", "Cluster", namespace, labels)
    found += cluster.find("v1", "PersistentVolumeClaim", namespace, labels)
    for suffix in SECRETS:
        name = f"{release.name}{suffix}"
        secret = cluster.get("v1", "Secret", namespace, name, metadata_only=True)
        made = (secret or {}).get("metadata", {}).get("labels", {}).get("app.kubernetes.io/managed-by")
        if secret is not None and made == "mlplatform":
            found.append({**secret, "apiVersion": "v1", "kind": "Secret"})
    return found


def _delete(cluster: Cluster, objects: list[Mapping[str, Any]], deadline: float) -> None:
    places = [
        (o["apiVersion"], o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"])
        for o in objects
    ]
    for place in places:
        cluster.delete(*place)
    for place in places:
        while cluster.get(*place, metadata_only=True) is not None:
            if time.monotonic() > deadline:
                raise Transient(f"{place[1]} {place[3]} is deleted, but does not go")
            time.sleep(0.2)


def _gone(cluster: Cluster, release: Release, chart: Chart, deadline: float) -> None:
    """Wait for the pods, which hold volumes and answer requests; not for CloudNativePG's, which stay."""
    labels = {k: v for k, v in phases.labels(release.name, chart.about["name"]).items() if "managed" not in k}
    while pods := [
        pod
        for pod in cluster.find("v1", "Pod", release.namespace, labels)
        if "cnpg.io/cluster" not in pod["metadata"]["labels"]
    ]:
        if time.monotonic() > deadline:
            raise Transient(f"pod {pods[0]['metadata']['name']} does not end")
        time.sleep(0.5)
