"""`mlplatform deploy` on a real node: from an empty namespace to a passed smoke test, again, and away."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.chart import Release
from mlflow_platform.deploy.turns import turn
from mlflow_platform.deploy.waiting import wait
from mlflow_platform.errors import Fatal
from tests.cluster import clusters
from tests.cluster.release import SMOKE, ask, deploy, mlplatform, state, steps

ROOT = Path(__file__).parents[2]


def test_from_an_empty_namespace_and_again_and_away_and_back(node: clusters.Cluster, restricted: str) -> None:
    began = time.monotonic()
    first = deploy(node, "-n", restricted)
    took = time.monotonic() - began
    assert steps(first) == SMOKE
    assert set(first["changes"].values()) == {"created", "unchanged"}
    assert [k for k, c in first["changes"].items() if c == "unchanged"] == [f"Namespace/{restricted}"]
    print(f"from an empty namespace to a passed smoke test: {took:.0f} s, {first['seconds']}")

    before = state(node, restricted)
    with ThreadPoolExecutor(2) as pool:  # two at once: one after the other, and neither harms the other
        at_once = list(pool.map(lambda _: deploy(node, "-n", restricted), range(2)))
    for again in at_once:
        assert set(again["changes"].values()) == {"unchanged"}
        assert steps(again) == SMOKE
    assert state(node, restricted) == before
    assert mlplatform(node, "deploy", "-n", restricted, "--diff").returncode == 0

    shown = mlplatform(
        node, "deploy", "-n", restricted, "--diff", "--set", "server.disruptionBudget.enabled=false"
    )
    assert shown.returncode == 2
    assert "--- PodDisruptionBudget/mlflow-server (cluster)" in shown.stdout
    assert re.search(r"^1 of \d+ objects would change\.$", shown.stdout, re.MULTILINE)
    assert state(node, restricted) == before

    ask(node, restricted, "/api/2.0/mlflow/experiments/create", {"name": "kept"})
    # What the chart's alerts and dashboard ask for.
    metrics = ask(node, restricted, "/metrics")
    assert "mlflow_http_request_total{" in metrics
    assert "mlflow_http_request_duration_seconds_bucket{" in metrics

    gone = mlplatform(node, "undeploy", "-n", restricted)
    assert gone.returncode == 0, gone.stderr
    kept = {k.split("-")[0] for k in state(node, restricted)}
    assert kept == {"PersistentVolumeClaim/data", "Secret/mlflow", "ConfigMap/kube", "ServiceAccount/default"}
    back = deploy(node, "-n", restricted, "--profile", "local")
    assert steps(back) == SMOKE
    found = ask(node, restricted, "/api/2.0/mlflow/experiments/get-by-name?experiment_name=kept")
    assert found["experiment"]["name"] == "kept"

    asked = mlplatform(node, "undeploy", "-n", restricted, "--delete-data")
    assert asked.returncode == 130
    assert mlplatform(node, "undeploy", "-n", restricted, "--delete-data", "--yes").returncode == 0
    assert set(state(node, restricted)) == {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}
    assert "There was nothing" in mlplatform(node, "undeploy", "-n", restricted).stdout


def test_a_pod_that_cannot_start_stops_it_with_its_words_and_a_re_run_goes_on(
    node: clusters.Cluster, restricted: str
) -> None:
    stopped = mlplatform(node, "deploy", "-n", restricted, "--profile", "local", "--set", "image.tag=absent")
    assert stopped.returncode == 1
    assert re.search(
        r"Job mlflow-bootstrap-\w+ failed|pod mlflow-bootstrap-\S+, container bootstrap", stopped.stderr
    )
    assert "mlflow-platform:absent" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    # The Service's name is taken by what the smoke test would ask: no server may stay behind.
    went_on = deploy(node, "-n", restricted, "--profile", "local")
    assert steps(went_on) == SMOKE
    assert "deleted" in went_on["changes"].values()  # the Job of the absent image

    refused = mlplatform(
        node, "deploy", "-n", restricted, "--set", "auth.existingSecret=mine", "--profile", "production"
    )
    assert refused.returncode == 1
    for words in (
        "the cluster knows no Cluster (postgresql.cnpg.io/v1)",
        "it comes with the CloudNativePG operator",
        "the cluster knows no ServiceMonitor",
        "the cluster knows no PrometheusRule",
        f"there is no Secret mine in namespace {restricted}",
        "--from-file=flaskSecretKey=FILE",
    ):
        assert words in refused.stderr


@pytest.mark.parametrize("where", ["containers", "initContainers"])
def test_what_goes_on_for_too_long_is_shown_with_its_words(
    cluster: clusters.Cluster, namespace: str, where: str
) -> None:
    waits = {
        "name": "waits",
        "image": "localhost/python:3.13-slim-trixie",
        "imagePullPolicy": "Never",
        "command": ["python", "-uc", "import time; print('for the moon'); time.sleep(600)"],
    }
    pod: dict[str, Any] = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
    pod |= {"containers": [{**waits, "name": "after"}], where: [waits]}
    meta = {"name": "stuck", "namespace": namespace}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {"template": {"spec": pod}}}
    cluster.apply(job, namespace=namespace)
    with pytest.raises(
        Fatal, match=r"(?s)Job stuck is not ready in time.*container waits .*\n +\| for the moon"
    ):
        wait(Cluster.connect(cluster.kubeconfig), [job], timeout=15, say=lambda _: None)


@pytest.mark.usefixtures("operators_kinds")
def test_a_login_for_the_namespace_alone_will_do(control_plane: clusters.Kubernetes, tmp_path: Path) -> None:
    """Kubernetes' own role `admin`, which says nothing of kinds that others have brought to the cluster."""
    control_plane.kubectl("create", "namespace", "theirs")
    control_plane.kubectl("-n", "theirs", "create", "serviceaccount", "deployer")
    for part in ("admin", "edit", "view"):  # a controller adds them up to `admin`, and none runs here
        control_plane.kubectl(
            *("-n", "theirs", "create", "rolebinding", part, "--serviceaccount=theirs:deployer"),
            f"--clusterrole=system:aggregate-to-{part}",
        )
    login = yaml.safe_load(control_plane.kubeconfig.read_text())
    login["users"][0]["user"] = {
        "token": control_plane.kubectl("-n", "theirs", "create", "token", "deployer").strip()
    }
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(login))
    try:
        shown = mlplatform(
            replace(control_plane, kubeconfig=kubeconfig), "deploy", "-n", "theirs", "--dry-run"
        )
        assert shown.returncode == 0, shown.stderr
        assert re.search(r"^(\d+) of \1 objects would change\.$", shown.stdout, re.MULTILINE)
        with turn(Cluster.connect(kubeconfig), Release("mlflow", "theirs"), timeout=0, last=True):
            pass
    finally:
        control_plane.kubectl("delete", "namespace", "theirs", "--wait=false")


def test_kubectl_apply_of_the_quickstart_reaches_the_same_state(node: clusters.Cluster) -> None:
    text = (ROOT / "manifests" / "quickstart.yaml").read_text("utf-8")
    wanted = {
        f"{o['kind']}/{o['metadata']['name']}" for o in yaml.safe_load_all(text) if o["kind"] != "Namespace"
    }
    try:
        applied = node.try_kubectl("apply", "-f", str(ROOT / "manifests" / "quickstart.yaml"))
        assert applied.returncode == 0, applied.stderr
        assert applied.stderr == ""
        node.kubectl(
            *("-n", "mlflow", "rollout", "status", "deployment/mlflow-server", "--timeout=300s"), timeout=310
        )
        assert wanted <= set(state(node, "mlflow"))
        outcome = deploy(node)
        assert steps(outcome) == SMOKE
        changed = {k for k, c in outcome["changes"].items() if c != "unchanged"}
        # kubectl cannot know the Secrets' versions, with which a deployment marks the pods that read them.
        assert changed <= {"Deployment/mlflow-server", "StatefulSet/mlflow-store"}
    finally:
        node.kubectl("delete", "namespace", "mlflow", "--wait=false")
