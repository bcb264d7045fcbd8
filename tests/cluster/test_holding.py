"""The autoscaler is held while a migration runs, on a real API server."""

from __future__ import annotations

import json
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.deploy import holding
from tests.cluster import clusters


def objects(namespace: str, replicas: int) -> list[dict[str, Any]]:
    labels = {"app": "a"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "mlflow-server"}
    place = {"name": "mlflow-server", "namespace": namespace}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": place,
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": pod},
        },
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": place,
            "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 6},
        },
    ]


def limits(server: clusters.Kubernetes, namespace: str) -> tuple[int, int, Any]:
    found = json.loads(server.kubectl("-n", namespace, "get", "hpa", "mlflow-server", "-o", "json"))
    held = found["metadata"].get("annotations", {}).get(holding.HELD)
    return found["spec"]["minReplicas"], found["spec"]["maxReplicas"], held


def test_held_again_after_a_kill_and_let_go_once(control_plane: clusters.Kubernetes) -> None:
    control_plane.kubectl("create", "namespace", "holding")
    cluster, place = Cluster.connect(control_plane.kubeconfig), ("holding", "mlflow-server")
    assert not holding.hold(cluster, *place)
    assert not holding.release(cluster, *place)
    for wanted in objects("holding", replicas=4):
        cluster.apply(wanted)
    before = (2, 6, None)
    assert limits(control_plane, "holding") == before
    assert not holding.release(cluster, *place)

    assert holding.hold(cluster, *place)
    assert limits(control_plane, "holding")[:2] == (4, 4)
    control_plane.kubectl("-n", "holding", "scale", "deployment", "mlflow-server", "--replicas=3")
    assert holding.hold(cluster, *place)  # by the next deployment, after the first was killed
    assert limits(control_plane, "holding")[:2] == (3, 3)
    assert holding.release(cluster, *place)
    assert limits(control_plane, "holding") == before
    assert not holding.release(cluster, *place)

    for wanted in objects("holding", replicas=3):  # what the chart says is taken as if nothing had been
        cluster.apply(wanted)
    assert limits(control_plane, "holding") == before
    control_plane.kubectl("-n", "holding", "scale", "deployment", "mlflow-server", "--replicas=0")
    assert not holding.hold(cluster, *place)
    assert limits(control_plane, "holding") == before
