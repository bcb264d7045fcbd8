"""The Job that tries the servers as a user would, from inside the cluster and through their Service. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_platform.chart import Manifest
from mlflow_platform.deploy import jobs, phases

#: What the Job's pod takes over of the servers' settings: the administrator's login.
_LOGIN = {
    "MLFLOW_AUTH_ADMIN_USERNAME": "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "MLFLOW_TRACKING_PASSWORD",
}


def job(manifests: Sequence[Manifest], release: str) -> Mapping[str, Any]:
    """Made of the servers' own Deployment: same image, account, Secrets and place in the network."""
    deployment = phases.servers(manifests)
    (service,) = (m.object for m in manifests if m.kind == "Service" and m.name == release)
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    namespace = deployment["metadata"]["namespace"]
    port = service["spec"]["ports"][0]["port"]
    env = [
        {"name": "MLFLOW_TRACKING_URI", "value": f"http://{release}.{namespace}.svc:{port}"},
        *(
            {"name": _LOGIN[e["name"]], "valueFrom": e["valueFrom"]}
            for e in server["env"]
            if e["name"] in _LOGIN
        ),
    ]
    return jobs.job(deployment, "smoke", ["python", "-m", "mlflow_platform.server.smoke"], env, seconds=300)
