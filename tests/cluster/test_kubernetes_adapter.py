"""The adapter, and what a removal deletes, against a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.chart import Release, find_chart
from mlflow_platform.deploy import phases, undeploy
from mlflow_platform.deploy.differences import Change, Difference
from mlflow_platform.errors import Fatal, Rejected, Transient
from tests.cluster import clusters

NAMESPACE = "adapter"


@pytest.fixture(scope="module")
def api(control_plane: clusters.Kubernetes) -> Iterator[Cluster]:
    control_plane.kubectl("create", "namespace", NAMESPACE)
    control_plane.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/warn=restricted")
    yield Cluster.connect(control_plane.kubeconfig)
    control_plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def config_map(name: str, **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"l": "x"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def test_apply_creates_changes_takes_over_and_removes_what_is_no_longer_set(
    api: Cluster, control_plane: clusters.Kubernetes
) -> None:
    place = ("v1", "ConfigMap", NAMESPACE, "a")
    assert api.apply(config_map("a", k="v"), dry_run=True).object["data"] == {"k": "v"}
    assert api.get(*place) is None
    first = api.apply(config_map("a", k="v", gone="x")).object
    assert api.apply(config_map("a", k="v", gone="x")).object == first  # not even a new version
    control_plane.kubectl(
        "-n", NAMESPACE, "patch", "configmap", "a", "-p", '{"data": {"k": "hers", "own": "o"}}'
    )
    assert api.apply(config_map("a", k="v")).object["data"] == {"k": "v", "own": "o"}
    assert [o["metadata"]["name"] for o in api.find("v1", "ConfigMap", NAMESPACE, {"l": "x"})] == ["a"]
    assert api.find("v1", "ConfigMap", NAMESPACE, {"l": "y"}) == []
    assert api.delete(*place)
    assert not api.delete(*place)


def test_metadata_only_leaves_a_secrets_content_at_the_server(api: Cluster) -> None:
    secret = {**config_map("s"), "kind": "Secret", "stringData": {"k": "hidden"}}
    del secret["data"]
    api.apply(secret)
    found = api.get("v1", "Secret", NAMESPACE, "s", metadata_only=True)
    assert found is not None
    assert found["metadata"]["name"] == "s"
    assert "data" not in found


def test_kinds_that_are_not_there(api: Cluster) -> None:
    assert api.version().startswith("1.")
    assert api.resource("example.com/v1", "Thing") is None
    assert api.resource("v1", "Thing") is None
    assert api.find("example.com/v1", "Thing", NAMESPACE) == []
    with pytest.raises(Rejected, match="this cluster knows no Thing"):
        api.get("v1", "Thing", NAMESPACE, "x")


def test_refusals_and_warnings_in_the_servers_own_words(api: Cluster) -> None:
    with pytest.raises(Rejected, match=r"ConfigMap a: .*field not declared in schema") as caught:
        api.apply({**config_map("a"), "dta": {}})
    assert caught.value.code == "500"
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
    place = {"name": "j", "namespace": NAMESPACE}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": place, "spec": {"template": {"spec": pod}}}
    (warning,) = api.apply(job).warnings
    assert warning.startswith('would violate PodSecurity "restricted:latest"')


def test_what_kubectl_applied_is_taken_over_and_counts_as_unchanged(
    api: Cluster, control_plane: clusters.Kubernetes
) -> None:
    chart = find_chart()
    manifests = chart.render(chart.values(), Release("taken", NAMESPACE))
    control_plane.kubectl("apply", "-f", "-", stdin="".join(m.text() for m in manifests))
    for wanted in (m.object for m in manifests):
        place = (wanted["apiVersion"], wanted["kind"], NAMESPACE, wanted["metadata"]["name"])
        live = api.get(*place)
        reply = api.apply(wanted)
        assert live is not None
        assert (
            live["metadata"]["resourceVersion"] != reply.object["metadata"]["resourceVersion"]
        )  # an owner more
        one = Difference(*phases.key(wanted), live, reply.object)
        assert one.change is Change.UNCHANGED, one.text()
    undeploy(api, Release("taken", NAMESPACE), chart, delete_data=False, timeout=20)


def test_undeploy_waits_for_its_own_pods_and_leaves_a_database_that_another_operator_runs(
    api: Cluster, control_plane: clusters.Kubernetes
) -> None:
    chart, release = find_chart(), Release("mlflow", NAMESPACE)
    labels = phases.labels("mlflow", chart.about["name"])
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}

    def of_release(api_version: str, kind: str, name: str, **content: Any) -> dict[str, Any]:
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels | content.pop("labels", {})}
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}

    api.apply(of_release("batch/v1", "Job", "mlflow-migrate", spec={"template": template}))
    api.apply(of_release("v1", "Secret", "mlflow-auth", stringData={"k": "v"}))
    api.apply(of_release("v1", "Pod", "server", **template))
    api.apply(
        of_release("v1", "Pod", "postgres-1", labels={"cnpg.io/cluster": "mlflow-postgres"}, **template)
    )
    api.apply({**config_map("stranger"), "data": {}})
    # No controller deletes a Job's pods here: this one stays until the test deletes it.
    with pytest.raises(Transient, match="pod server does not end"):
        undeploy(api, release, chart, delete_data=False, timeout=2)
    api.delete("v1", "Pod", NAMESPACE, "server")
    api.apply(of_release("batch/v1", "Job", "mlflow-migrate", spec={"template": template}))
    assert undeploy(api, release, chart, delete_data=False, timeout=2) == ["Job/mlflow-migrate"]
    assert api.get("v1", "Secret", NAMESPACE, "mlflow-auth") is not None
    assert undeploy(api, release, chart, delete_data=True, timeout=2) == ["Secret/mlflow-auth"]
    assert api.get("v1", "Pod", NAMESPACE, "postgres-1") is not None
    assert api.get("v1", "ConfigMap", NAMESPACE, "stranger") is not None


def test_a_login_that_is_refused_and_a_server_that_is_not_there(
    control_plane: clusters.Kubernetes, tmp_path: Path
) -> None:
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": "not-the-token"}
    other = tmp_path / "config"
    other.touch(mode=0o600)
    other.write_text(yaml.safe_dump(config))
    with pytest.raises(Fatal, match="does not accept the login") as caught:
        Cluster.connect(other).version()
    assert "not-the-token" not in str(caught.value)
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    other.write_text(yaml.safe_dump(config))
    with pytest.raises(Transient, match=r"127\.0\.0\.1:9 does not answer"):
        Cluster.connect(other).version()
    with pytest.raises(Fatal, match="no login for a cluster"):
        Cluster.connect(tmp_path / "absent")
    with pytest.raises(Fatal, match="no login for a cluster"):
        Cluster.connect(other, "no-such-context")
