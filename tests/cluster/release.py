"""Releases of the platform on a test cluster: deployed by the real command, asked through the Service."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import urllib3

from tests.cluster import clusters

RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
#: Hosts that users open. No controller is here, and no HTTPRoute: a Gateway's host is told by hand.
INGRESS_HOST, GATEWAY_HOST = "mlflow.example.com", "gateway.example.com"
WAYS_IN = [
    *("--set", f"ingress={{enabled: true, host: {INGRESS_HOST}}}"),
    *("--set", f"server.allowedHosts=[{GATEWAY_HOST}]"),
]
SMOKE = ["login", "run", "metric", "artifact written and read back", "model registered"]


@dataclass(frozen=True)
class Release:
    """A deployed release, and the node it runs on."""

    node: clusters.Cluster
    namespace: str

    @property
    def address(self) -> str:
        """The Service's cluster address, reachable from this machine."""
        return self.node.kubectl(
            "-n", self.namespace, "get", "service", "mlflow", "-o", "jsonpath={.spec.clusterIP}"
        )

    @property
    def host(self) -> str:
        """The Service's name with its port: a Host header that MLflow accepts."""
        return f"mlflow.{self.namespace}.svc:5000"

    def login(self) -> tuple[str, str]:
        """Name and password of the administrator, as the Secret holds them now."""
        return self._pair("mlflow-auth", "username", "password")

    def store_keys(self) -> tuple[str, str]:
        """The pair of the bundled store, as its Secret holds it now."""
        return self._pair("mlflow-store", "accessKeyId", "secretAccessKey")

    def _pair(self, name: str, *keys: str) -> tuple[str, str]:
        found = json.loads(self.node.kubectl("-n", self.namespace, "get", "secret", name, "-o", "json"))
        first, second = (base64.b64decode(found["data"][key]).decode() for key in keys)
        return first, second


def mlplatform(node: clusters.Kubernetes, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlflow_platform.cli", *arguments],
        env={**os.environ, "KUBECONFIG": str(node.kubeconfig)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def deploy(node: clusters.Cluster, *arguments: str) -> dict[str, Any]:
    done = mlplatform(node, "deploy", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    assert outcome["warnings"] == []
    return outcome


def steps(outcome: dict[str, Any]) -> list[str]:
    return [line.split(": passed")[0] for line in outcome["smoke"]]


def state(node: clusters.Cluster, namespace: str) -> dict[str, str]:
    """Every object of the release and its pods -> uid and resourceVersion."""
    kinds = "deployment,statefulset,job,pod,service,configmap,secret,pvc,serviceaccount,role,rolebinding"
    found = json.loads(
        node.kubectl("-n", namespace, "get", f"{kinds},networkpolicy,poddisruptionbudget", "-o", "json")
    )
    return {
        f"{o['kind']}/{o['metadata']['name']}": f"{o['metadata']['uid']} {o['metadata']['resourceVersion']}"
        for o in found["items"]
        if o["kind"] not in ("Job", "Pod") or "smoke" not in o["metadata"]["name"]
    }


def ask(node: clusters.Cluster, namespace: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """One request to MLflow through the Service's address, as its administrator."""
    release = Release(node, namespace)
    headers = urllib3.make_headers(basic_auth=":".join(release.login())) | {"host": release.host}
    answer = urllib3.request(
        "POST" if body else "GET",
        f"http://{release.address}:5000{path}",
        json=body,
        headers=headers,
        retries=False,
        timeout=60,
    )
    assert answer.status == 200, answer.data
    return answer.json() if "json" in answer.headers.get("content-type", "") else answer.data.decode()
