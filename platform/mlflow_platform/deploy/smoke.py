"""The Job that tries the servers as a user would, from inside the cluster and through their Service. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_platform.chart import Manifest
from mlflow_platform.deploy.phases import COMPONENT

#: What the Job's pod takes over of the servers' settings: the administrator's login.
_LOGIN = {
    "MLFLOW_AUTH_ADMIN_USERNAME": "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "MLFLOW_TRACKING_PASSWORD",
}


def job(manifests: Sequence[Manifest], release: str) -> Mapping[str, Any]:
    """Made of the servers' own Deployment: same image, account, Secrets and place in the network."""
    name = f"{release}-server"
    (deployment,) = (m.object for m in manifests if (m.kind, m.name) == ("Deployment", name))
    (service,) = (m.object for m in manifests if m.kind == "Service" and m.name == release)
    pod = deployment["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    namespace = deployment["metadata"]["namespace"]
    port = service["spec"]["ports"][0]["port"]
    login = {e["name"]: e["valueFrom"] for e in server["env"] if e["name"] in _LOGIN}
    labels = {**deployment["metadata"]["labels"], COMPONENT: "smoke"}
    environment = [
        {"name": "MLFLOW_TRACKING_URI", "value": f"http://{release}.{namespace}.svc:{port}"},
        *({"name": _LOGIN[name], "valueFrom": source} for name, source in login.items()),
    ]
    container = {
        "name": "smoke",
        **{k: copy.deepcopy(server[k]) for k in ("image", "imagePullPolicy", "securityContext")},
        "command": ["python", "-m", "mlflow_platform.server.smoke"],
        "env": environment,
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
    }
    kept = ("enableServiceLinks", "securityContext", "imagePullSecrets", "nodeSelector", "tolerations")
    spec = {
        **{k: copy.deepcopy(pod[k]) for k in kept if k in pod},
        "serviceAccountName": pod["serviceAccountName"],
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "containers": [container],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{release}-smoke", "namespace": namespace, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": 300,
            # Removed by the deployment when it has passed; one that failed stays a while to be looked at.
            "ttlSecondsAfterFinished": 3600,
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
