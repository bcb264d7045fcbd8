"""The Job that tries an external database and bucket before anything is deployed on them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_platform.chart import Manifest
from mlflow_platform.deploy import jobs
from mlflow_platform.deploy.phases import COMPONENT

#: On the servers' Deployment: how many connections they can come to hold (the chart's server.yaml.j2).
CONNECTIONS = "mlplatform.io/connections"
_DATABASE = ("PG",)
_STORE = ("AWS_", "MLFLOW_S3_", "MLFLOW_BOTO_", "MLFLOW_ARTIFACTS_DESTINATION")


def job(manifests: Sequence[Manifest], release: str) -> Mapping[str, Any] | None:
    """With the servers' own settings for what is external; None where all is the chart's."""
    (deployment,) = (m.object for m in manifests if m.kind == "Deployment")
    made = {
        m.object["metadata"]["labels"][COMPONENT] for m in manifests if m.kind in ("StatefulSet", "Cluster")
    }
    wanted = (() if "postgres" in made else _DATABASE) + (() if "store" in made else _STORE)
    if not wanted:
        return None
    pod = deployment["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    environment = [e for e in server["env"] if e["name"] == "HOME" or e["name"].startswith(wanted)]
    connections = deployment["metadata"]["annotations"][CONNECTIONS]
    rendered = {m.name for m in manifests if m.kind == "ConfigMap"}
    # The release's own ConfigMaps are not there yet.
    volumes = [v for v in pod["volumes"] if v.get("configMap", {}).get("name") not in rendered]
    names = {v["name"] for v in volumes}
    container = {
        "name": "preflight",
        "command": ["python", "-m", "mlflow_platform.server.preflight"],
        "env": [*environment, {"name": "MLPLATFORM_CONNECTIONS", "value": connections}],
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "volumeMounts": [m for m in server["volumeMounts"] if m["name"] in names],
    }
    # The migration's way to database and store is open to it where NetworkPolicies are there already.
    labels = {**deployment["metadata"]["labels"], COMPONENT: "migrate"}
    return jobs.like(f"{release}-preflight", labels, deployment, container, volumes)


def account(manifests: Sequence[Manifest]) -> Mapping[str, Any]:
    """The servers' ServiceAccount, whose annotations may be the Job's login for the bucket."""
    (deployment,) = (m.object for m in manifests if m.kind == "Deployment")
    wanted = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    (found,) = (m.object for m in manifests if (m.kind, m.name) == ("ServiceAccount", wanted))
    return found
