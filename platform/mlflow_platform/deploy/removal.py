"""Takes a deployment away. Data stay unless told otherwise: volumes, and the Secrets that open them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.chart import Chart, Release
from mlflow_platform.deploy import phases, settling, turns
from mlflow_platform.deploy.deployment import existing
from mlflow_platform.errors import Transient

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
    operated = settling.operated(found)
    alone = operated and settling.settle(cluster, release, chart, deadline)
    pods = [f for f in found if f["kind"] in ("Deployment", "StatefulSet", "Job")]
    _delete(cluster, [f for f in found if f["kind"] != "NetworkPolicy"], deadline)
    if pods:
        settling.wait_for_pods(cluster, release, chart, deadline)
    if operated:
        # What the operator has made again while it was being deleted.
        _delete(cluster, settling.made_for_documents(existing(cluster, release, chart)), deadline)
        settling.let_go(cluster, release, alone=alone)
    # Last, so that no pod ever runs without the rules that fence it in.
    _delete(cluster, [f for f in found if f["kind"] == "NetworkPolicy"], deadline)
    if delete_data:
        data = data_of(cluster, release, chart)
        _delete(cluster, data, deadline)
        found += data
    return found


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
