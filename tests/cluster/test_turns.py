"""One command at a time changes a release, on a real API server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from mlflow_platform.adapters.election import Timing
from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.chart import Release, find_chart
from mlflow_platform.deploy import undeploy
from mlflow_platform.deploy.turns import lease, turn
from mlflow_platform.errors import Fatal, Rejected, Transient
from mlflow_platform.model import crd
from tests.cluster import clusters
from tests.cluster.release import mlplatform

RELEASE = Release("mlflow", "turns")
LEASE = ("coordination.k8s.io/v1", "Lease", RELEASE.namespace, lease(RELEASE))
STORAGE = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "turns", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": "example.com/none",
}
QUICK = Timing(lease=2.0, renew=1.5, retry=0.2)
#: A command that is at it until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
from mlflow_platform.adapters.kubernetes import Cluster
from tests.cluster.test_turns import QUICK, RELEASE, turn
with turn(Cluster.connect(Path(sys.argv[1])), RELEASE, timeout=0, timing=QUICK):
    print("begun", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def there(control_plane: clusters.Kubernetes) -> Iterator[None]:
    """The release's namespace."""
    control_plane.kubectl("create", "namespace", RELEASE.namespace)
    yield
    control_plane.kubectl("delete", "namespace", RELEASE.namespace, "--wait=false")


@pytest.fixture
def api(control_plane: clusters.Kubernetes, there: None) -> Iterator[Cluster]:
    found = Cluster.connect(control_plane.kubeconfig)
    yield found
    found.delete(*LEASE)


def another(control_plane: clusters.Kubernetes) -> Cluster:
    return Cluster.connect(control_plane.kubeconfig)


def test_the_second_waits_for_the_first_and_says_so(api: Cluster, control_plane: clusters.Kubernetes) -> None:
    order, waiting = [], threading.Event()

    def second() -> None:
        with turn(another(control_plane), RELEASE, timeout=60, say=said, timing=QUICK):
            order.append("second")

    def said(text: str) -> None:
        assert f"(pid {os.getpid()}" in text
        waiting.set()

    thread = threading.Thread(target=second)
    with turn(api, RELEASE, timeout=0, timing=QUICK):
        thread.start()
        assert waiting.wait(30)
        # Longer than a Lease lasts that is not renewed.
        assert not threading.Event().wait(2 * QUICK.lease)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
    found = api.get(*LEASE)
    assert found is not None
    assert found["spec"]["holderIdentity"] == ""


def test_one_that_was_killed_is_in_nobodys_way(api: Cluster, control_plane: clusters.Kubernetes) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(control_plane.kubeconfig)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    with (
        pytest.raises(Transient, match=rf"pid {process.pid}, .* is changing mlflow in namespace turns"),
        turn(api, RELEASE, timeout=0, timing=QUICK),
    ):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    with turn(api, RELEASE, timeout=60, timing=QUICK):
        pass


def test_one_that_slept_for_too_long_sends_nothing_more(
    api: Cluster, control_plane: clusters.Kubernetes
) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    mine = {**account, "metadata": {"name": "mine", "namespace": RELEASE.namespace}}
    with turn(api, RELEASE, timeout=0, timing=QUICK, last=True):
        api.apply(mine)
        # As another command that took it for dead.
        held = another(control_plane).get(*LEASE)
        assert held is not None
        spec = {**held["spec"], "holderIdentity": "another"}
        another(control_plane).patch(*LEASE, {"spec": spec})
        assert not threading.Event().wait(2 * QUICK.renew)
        with pytest.raises(Fatal, match="the Lease mlflow-deploy was lost"):
            api.delete("v1", "ServiceAccount", RELEASE.namespace, "mine")
    found = api.get(*LEASE)
    assert found is not None
    assert found["spec"]["holderIdentity"] == "another"
    assert api.delete("v1", "ServiceAccount", RELEASE.namespace, "mine")


def test_a_deployment_and_its_removal_take_turns(api: Cluster, control_plane: clusters.Kubernetes) -> None:
    control_plane.apply(STORAGE)
    with turn(another(control_plane), RELEASE, timeout=0):
        stopped = mlplatform(control_plane, "deploy", "-n", RELEASE.namespace, "--timeout", "1")
        assert stopped.returncode == 1
        assert f"(pid {os.getpid()}" in stopped.stderr
        assert "is changing mlflow in namespace turns" in stopped.stderr
        assert "Traceback" not in stopped.stderr
        assert api.find("v1", "ConfigMap", RELEASE.namespace, {"app.kubernetes.io/instance": "mlflow"}) == []
        assert mlplatform(control_plane, "deploy", "-n", RELEASE.namespace, "--dry-run").returncode == 0
        mine = {"name": "mlflow-auth", "namespace": RELEASE.namespace}
        labels = {"app.kubernetes.io/managed-by": "mlplatform"}
        api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {**mine, "labels": labels}})
        with pytest.raises(Transient, match="is changing mlflow"):
            undeploy(api, RELEASE, find_chart(), delete_data=True, timeout=1)
    assert undeploy(api, RELEASE, find_chart(), delete_data=True, timeout=30) == ["Secret/mlflow-auth"]
    assert api.get(*LEASE) is None
    assert undeploy(api, RELEASE, find_chart(), delete_data=True, timeout=30) == []
    assert api.get(*LEASE) is None
    control_plane.kubectl("delete", "storageclass", "turns")


def test_a_rotation_takes_its_turn(api: Cluster, control_plane: clusters.Kubernetes) -> None:
    def rotate() -> None:
        done.append(mlplatform(control_plane, "rotate", "admin", "-n", RELEASE.namespace))

    done: list[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(target=rotate)
    with turn(api, RELEASE, timeout=0):
        thread.start()
        thread.join(10)
        assert not done
        before = another(control_plane).get(*LEASE)
    thread.join(120)
    assert "there is no release mlflow in namespace turns" in done[0].stderr
    after = api.get(*LEASE)
    assert before is not None
    assert after is not None
    assert after["spec"]["leaseTransitions"] == before["spec"]["leaseTransitions"] + 1
    assert after["spec"]["holderIdentity"] == ""


def test_the_definitions_are_among_what_would_change(
    api: Cluster, control_plane: clusters.Kubernetes
) -> None:
    control_plane.apply(STORAGE)
    command = ("deploy", "-n", RELEASE.namespace, "--set", "operator.enabled=true")
    try:
        shown = mlplatform(control_plane, *command, "--dry-run")
        name = "CustomResourceDefinition/experiments.mlplatform.io"
        assert shown.returncode == 0, shown.stderr
        assert f"created   {name}\n" in shown.stdout
        definitions = crd.definitions()
        for definition in definitions:
            api.apply(definition)
        assert name not in mlplatform(control_plane, *command, "--diff").stdout
        older = {**definitions[0], "spec": {**definitions[0]["spec"]}}
        older["spec"]["names"] = {**older["spec"]["names"], "categories": []}
        api.apply(older)
        shown = mlplatform(control_plane, *command, "--diff")
        assert shown.returncode == 2
        assert f"--- CustomResourceDefinition/{older['metadata']['name']} (cluster)" in shown.stdout
        assert "\n+    - mlplatform\n" in shown.stdout
        assert api.find("v1", "ConfigMap", RELEASE.namespace, {"app.kubernetes.io/instance": "mlflow"}) == []
    finally:
        # Just made, they take the API server long to clean up; nothing after this asks for them.
        label = "app.kubernetes.io/part-of=mlflow-platform"
        control_plane.kubectl("delete", "crd", "-l", label, "--wait=false")
        control_plane.kubectl("delete", "storageclass", "turns")


def test_a_namespace_that_is_not_there_is_said(api: Cluster) -> None:
    with (
        pytest.raises(Rejected, match='namespaces "absent" not found'),
        turn(api, Release("mlflow", "absent"), timeout=60),
    ):
        pass
