"""Holds an autoscaler still while a migration runs and servers are replaced.

Pods of the old version could not start on the new schema, those of the new one would wait for it. The
number of pods is fixed by the autoscaler's own limits, with the real ones kept in an annotation, so that
whoever comes next can let go: this run at its end, or another after this one was killed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster

#: Limits that an autoscaler had before it was held, as JSON.
HELD = "mlplatform.io/held"
_LIMITS = ("minReplicas", "maxReplicas")
_API = ("autoscaling/v2", "HorizontalPodAutoscaler")


def hold(cluster: Cluster, namespace: str, name: str) -> bool:
    """Fix the number of pods at what it is now; whether there was an autoscaler to hold."""
    live = cluster.get(*_API, namespace, name)
    if live is None:
        return False
    target = live["spec"]["scaleTargetRef"]
    scaled = cluster.get(target["apiVersion"], target["kind"], namespace, target["name"])
    if scaled is None or not scaled["spec"].get("replicas"):
        return False  # nothing to scale, or scaled to none by hand, which no autoscaler undoes
    before = limits(live) or {k: live["spec"][k] for k in _LIMITS}  # the API server fills in both
    fixed = dict.fromkeys(_LIMITS, scaled["spec"]["replicas"])
    _set(cluster, live, fixed, json.dumps(before, sort_keys=True))
    return True


def release(cluster: Cluster, namespace: str, name: str) -> bool:
    """Give the autoscaler its limits back; whether it was held."""
    live = cluster.get(*_API, namespace, name)
    before = limits(live) if live is not None else None
    if live is None or before is None:
        return False
    _set(cluster, live, before, None)
    return True


def limits(live: Mapping[str, Any]) -> dict[str, int] | None:
    """Those that a held autoscaler had; None if it is not held. Pure."""
    text = live["metadata"].get("annotations", {}).get(HELD)
    return None if text is None else dict(json.loads(text))


def _set(cluster: Cluster, live: Mapping[str, Any], spec: Mapping[str, int], note: str | None) -> None:
    place = live["metadata"]["namespace"], live["metadata"]["name"]
    cluster.patch(*_API, *place, {"metadata": {"annotations": {HELD: note}}, "spec": dict(spec)})
