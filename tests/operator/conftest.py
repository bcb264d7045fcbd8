"""A real API server with our definitions, and a real MLflow (`stack`) to reconcile."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.chart import Release, find_chart
from mlflow_platform.local import Stack
from mlflow_platform.model import crd
from tests.cluster import clusters
from tests.cluster.conftest import FIRST_USE_SECONDS
from tests.operator.running import OPS, Process, Site


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(FIRST_USE_SECONDS))


def established(server: clusters.Kubernetes) -> Cluster:
    """The API server with our definitions, once it serves them."""
    cluster = Cluster.connect(server.kubeconfig)
    for definition in crd.definitions():
        cluster.apply(definition)
    for definition in crd.definitions():
        name = definition["metadata"]["name"]
        server.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")
        deadline = time.monotonic() + 30
        plural = definition["spec"]["names"]["plural"]
        while server.try_kubectl("get", f"{plural}.mlplatform.io", "-A").returncode != 0:
            assert time.monotonic() < deadline, f"{name} is not served"
            time.sleep(0.2)
    return cluster


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.ControlPlane]:
    """kube-apiserver and etcd that know our kinds."""
    with clusters.control_plane(tmp_path_factory.mktemp("control-plane")) as server:
        established(server)
        yield server


@pytest.fixture(scope="session")
def cluster(control_plane: clusters.Kubernetes) -> Cluster:
    """The adapter, logged in as the cluster's administrator."""
    return Cluster.connect(control_plane.kubeconfig)


@pytest.fixture(scope="session")
def site(
    control_plane: clusters.ControlPlane,
    cluster: Cluster,
    stack: Stack,
    tmp_path_factory: pytest.TempPathFactory,
) -> Site:
    """The cluster and MLflow, with the TrackingServer `default` and no operator."""
    found = Site(control_plane, cluster, stack, tmp_path_factory.mktemp("operators"))
    found.server()
    return found


@pytest.fixture(autouse=True)
def none_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that failed leaves no operator running: it would lead while the next one waits."""
    for shared in ("site", "operator"):  # what a module shares stays
        if shared in request.fixturenames:
            request.getfixturevalue(shared)
    started = request.getfixturevalue("site").started if "site" in request.fixturenames else []
    before = len(started)
    yield
    for process in started[before:]:
        if process.process.poll() is None:
            process.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def operator(site: Site) -> Iterator[Process]:
    """One operator that leads, for the tests of a module."""
    with site.running() as process:
        yield process


@pytest.fixture(scope="session")
def template(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart's, of a release that the stack is the server of."""
    chart = find_chart()
    rendered = chart.render(chart.values(settings=["operator.enabled=true"]), Release("mlflow", OPS))
    (config,) = (m.object for m in rendered if (m.kind, m.name) == ("ConfigMap", "mlflow-operator"))
    found = yaml.safe_load(config["data"]["jobs.yaml"])
    found["trackingUri"] = site.stack.endpoints().tracking_uri
    path = tmp_path_factory.mktemp("template") / "jobs.yaml"
    path.write_text(yaml.safe_dump(found), "utf-8")
    return path
