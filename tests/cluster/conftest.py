"""Fixtures: `control_plane` (a real API server, any user) and `cluster` (one node, needs root).

Where something they need is missing, the tests fail and say what to install: a skipped
test is not a passed one. Both are started at most once a session.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import clusters
from tests.cluster.release import RESTRICTED, WAYS_IN, Release, deploy
from tests.tools import schemas

#: The first use on a machine builds Kubernetes: about 7 minutes on 2 idle cores.
FIRST_USE_SECONDS = 2400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(FIRST_USE_SECONDS))


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.ControlPlane]:
    """kube-apiserver and etcd: for what the API server itself checks (schemas, CEL, server-side apply)."""
    with clusters.control_plane(tmp_path_factory.mktemp("control-plane")) as server:
        yield server


@pytest.fixture(scope="module")
def operators_kinds(control_plane: clusters.Kubernetes) -> Iterator[None]:
    """The kinds of CloudNativePG, the Gateway API and the Prometheus operator, by their own CRDs."""
    files = [word for file in schemas.definitions() for word in ("-f", str(file))]
    control_plane.kubectl("apply", "--server-side", *files)
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", *files)
    yield
    control_plane.kubectl("delete", "--timeout=60s", *files)


@pytest.fixture(scope="session")
def cluster() -> Iterator[clusters.Cluster]:
    """A whole cluster of one node with the `python` image loaded."""
    with clusters.one_node_cluster() as running:
        running.load("python")
        yield running
        running.all_deleted()


@pytest.fixture
def namespace(cluster: clusters.Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, deleted with all it holds when the test ends."""
    name = f"{request.node.name.replace('_', '-').split('[')[0][:50]}-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")  # `all_deleted` waits


@pytest.fixture(scope="session")
def node(cluster: clusters.Cluster) -> clusters.Cluster:
    """The cluster with every image that a deployment needs."""
    for image in ("postgres", "seaweedfs"):
        cluster.load(image)
    cluster.load_platform()
    return cluster


@pytest.fixture
def restricted(node: clusters.Cluster, namespace: str) -> str:
    """An empty namespace that enforces Pod Security `restricted`."""
    node.kubectl("label", "namespace", namespace, RESTRICTED)
    return namespace


@pytest.fixture(scope="session")
def live(node: clusters.Cluster) -> Release:
    """A release with the default values and all ways in; tests share it, and leave it whole and serving."""
    node.kubectl("create", "namespace", "live")
    node.kubectl("label", "namespace", "live", RESTRICTED)
    deploy(node, "-n", "live", *WAYS_IN)
    return Release(node, "live")  # it ends with its cluster
