"""The Job that tries an external database and bucket before anything is deployed on them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_platform.chart import Manifest
from mlflow_platform.deploy import jobs, phases

_DATABASE = ("PG",)
_STORE = ("AWS_", "MLFLOW_S3_", "MLFLOW_BOTO_", "MLFLOW_ARTIFACTS_DESTINATION")


def job(manifests: Sequence[Manifest], values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """With the servers' own settings for what is external; None where all is the chart's."""
    wanted = (_DATABASE if values["database"]["mode"] == "external" else ()) + (
        _STORE if values["store"]["mode"] == "external" else ()
    )
    if not wanted:
        return None
    servers = phases.servers(manifests)
    pod = servers["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    environment = [e for e in server["env"] if e["name"] == "HOME" or e["name"].startswith(wanted)]
    connections = {"name": "MLPLATFORM_CONNECTIONS", "value": str(values["database"]["maxConnections"])}
    # The release's own ConfigMaps are not there yet.
    made = {m.name for m in manifests if m.kind == "ConfigMap"}
    volumes = [v["name"] for v in pod["volumes"] if v.get("configMap", {}).get("name") not in made]
    command = ["python", "-m", "mlflow_platform.server.preflight"]
    # The migration's way to database and store is open to it where NetworkPolicies are there already.
    found = jobs.job(servers, "migrate", command, [*environment, connections], seconds=120, volumes=volumes)
    release = servers["metadata"]["labels"]["app.kubernetes.io/instance"]
    found["metadata"]["name"] = f"{release}-preflight"
    return found


def account(manifests: Sequence[Manifest]) -> Mapping[str, Any]:
    """The servers' ServiceAccount, whose annotations may be the Job's login for the bucket."""
    wanted = phases.servers(manifests)["spec"]["template"]["spec"]["serviceAccountName"]
    (found,) = (m.object for m in manifests if (m.kind, m.name) == ("ServiceAccount", wanted))
    return found
