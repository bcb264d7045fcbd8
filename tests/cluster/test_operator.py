"""The operator as the chart deploys it, under its own rights, on a real node."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import backup_jobs, clusters, retention_jobs
from tests.cluster.release import SMOKE, ask, deploy, mlplatform, state, steps

ROOT = Path(__file__).parents[2]
SETTINGS = (
    *("--profile", "local", "--set", "operator.enabled=true", "--set", "operator.intervalSeconds=5"),
    *("--set", retention_jobs.SETTING),
)


def eventually(look: Callable[[], Any], what: str, patience: float = 300.0) -> Any:
    deadline = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.5)
    return found


def secrets(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The Secrets that the documents refer to."""
    keys: dict[str, dict[str, str]] = {}
    password = base64.b64encode(b"correct horse battery staple").decode()
    for one in documents:
        for field in ("passwordSecretRef", "secretRef"):
            if reference := one["spec"].get(field):
                keys.setdefault(reference["name"], {})[reference["key"]] = password
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
        for name, data in keys.items()
    ]


def experiment(name: str, /, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "mlplatform.io/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": name},
        "spec": spec,
    }


def lease(node: clusters.Cluster, namespace: str) -> str:
    holder = "jsonpath={.spec.holderIdentity}"
    return node.kubectl("-n", namespace, "get", "lease", "mlflow-operator", "-o", holder)


def tags(node: clusters.Cluster, namespace: str, name: str) -> dict[str, str]:
    path = f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}"
    found = ask(node, namespace, path)["experiment"]
    return {"": found["lifecycle_stage"], **{t["key"]: t["value"] for t in found.get("tags", ())}}


@pytest.mark.timeout(2400)  # some 30 waits for real pods
def test_deployed_by_the_chart(node: clusters.Cluster, restricted: str) -> None:
    first = deploy(node, "-n", restricted, *SETTINGS)
    assert steps(first) == SMOKE
    before = state(node, restricted)
    second = deploy(node, "-n", restricted, *SETTINGS)
    assert set(second["changes"].values()) == {"unchanged"}
    assert {k: v for k, v in state(node, restricted).items() if "Pod/" in k} == {
        k: v for k, v in before.items() if "Pod/" in k
    }
    node.kubectl("wait", "trackingserver/default", "--for=condition=Ready", "--timeout=300s")

    files = sorted((ROOT / "manifests" / "examples").glob("*.yaml"))
    documents = [d for f in files for d in yaml.safe_load_all(f.read_text("utf-8")) if d]
    node.apply(*secrets(documents), namespace=restricted)
    node.apply(*documents, namespace=restricted)
    for kind in sorted({d["kind"].lower() for d in documents}):
        node.kubectl(
            *("-n", restricted, "wait", f"{kind}.mlplatform.io", "--all", "--for=condition=Ready"),
            "--timeout=300s",
        )

    node.apply(experiment("drifting", tags={"team": "search"}), namespace=restricted)
    node.kubectl("-n", restricted, "wait", "exp/drifting", "--for=condition=Ready", "--timeout=300s")
    path = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=drifting"
    id_ = ask(node, restricted, path)["experiment"]["experiment_id"]
    edit = {"experiment_id": id_, "key": "team", "value": "mine"}
    ask(node, restricted, "/api/2.0/mlflow/experiments/set-experiment-tag", edit)
    eventually(lambda: tags(node, restricted, "drifting")["team"] == "search", "drift is corrected")
    eventually(
        lambda: (
            "DriftCorrected" in node.kubectl("-n", restricted, "get", "events", "-o", "name", "-o", "yaml")
        ),
        "an Event says so",
    )

    retention_jobs.retention(node, restricted)
    backup_jobs.backup(node, restricted)

    # The leader's pod goes; the other one leads, and a rollout completes with a standby that is ready.
    holder = lease(node, restricted)
    pod = holder.rsplit("_", 1)[0]
    node.kubectl("-n", restricted, "delete", "pod", pod, "--grace-period=0", "--force")
    eventually(lambda: lease(node, restricted) not in ("", holder), "another replica leads")
    node.kubectl("-n", restricted, "rollout", "restart", "deployment/mlflow-operator")
    node.kubectl(
        *("-n", restricted, "rollout", "status", "deployment/mlflow-operator", "--timeout=300s"), timeout=330
    )
    node.apply(experiment("after-the-rollout"), namespace=restricted)
    node.kubectl("-n", restricted, "wait", "exp/after-the-rollout", "--for=condition=Ready", "--timeout=300s")

    tenant(node, restricted)

    gone = mlplatform(node, "undeploy", "-n", restricted)
    assert gone.returncode == 0, gone.stderr
    left = json.loads(node.kubectl("get", "clusterrole,clusterrolebinding", "-o", "json"))["items"]
    assert not [o["metadata"]["name"] for o in left if restricted in o["metadata"]["name"]]
    # No finalizer holds them any more; the TrackingServer, which has no namespace, goes with them.
    node.kubectl("-n", restricted, "delete", "mlplatform", "--all", "--timeout=300s")


def tenant(node: clusters.Cluster, release: str) -> None:
    """A tenant's namespace declares what it may, nothing else, and ends when it is deleted whole."""
    name = f"{release[:40]}-tenant"
    label = {"tenant": name}
    allowed = {
        "namespaceSelector": {"matchLabels": label},
        "kinds": ["Experiment"],
        "namePrefixes": ["tenant/"],
    }
    patch = {"spec": {"allowed": [allowed], "brakes": {"maxLossPercent": 100, "minimumOwned": 1}}}
    node.kubectl("patch", "trackingserver", "default", "--type=merge", "-p", json.dumps(patch))
    metadata = {"name": name, "labels": label}
    node.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    mine = [experiment(f"e{i}", name=f"tenant/e{i}", deletionPolicy="Delete") for i in range(5)]
    node.apply(*mine, experiment("theirs", name="drifting"), namespace=name)
    for i in range(5):
        node.kubectl("-n", name, "wait", f"exp/e{i}", "--for=condition=Ready", "--timeout=300s")
    node.kubectl("-n", name, "wait", "exp/theirs", "--for=condition=Stalled", "--timeout=300s")
    shown = mlplatform(node, "get", "experiments", "-n", name, "--not-ready")
    assert shown.returncode == 1
    assert "does not begin with 'tenant/'" in shown.stdout
    node.kubectl("delete", "namespace", name, "--timeout=300s")
    assert all(tags(node, release, f"tenant/e{i}")[""] == "deleted" for i in range(5))
    assert tags(node, release, "drifting")[""] == "active"
