"""The chart's objects against a real API server, and what it bundles on a real node."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from mlflow_platform.chart import Manifest, Release, find_chart
from mlflow_platform.errors import Rejected
from mlflow_platform.server import bootstrap
from tests.cluster import clusters
from tests.unit.test_chart_mlflow_platform import CASES

RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


def rendered(namespace: str, case: str = "default") -> list[Manifest]:
    chart = find_chart()
    profile, settings = CASES[case]
    return chart.render(chart.values(profile=profile, settings=settings), Release(namespace=namespace))


@pytest.fixture
def restricted(control_plane: clusters.Kubernetes, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the API server alone that asks for Pod Security `restricted`."""
    name = f"restricted-{abs(hash(request.node.name)) % 10**6}"
    control_plane.apply(namespace_object(name))
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


def namespace_object(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}


def secret(name: str, **content: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content}


@pytest.fixture(scope="module")
def tenant(control_plane: clusters.Kubernetes) -> Iterator[None]:
    """The namespace whose Secrets the case `operator` binds its operator to."""
    control_plane.kubectl("create", "namespace", "team-a")
    yield
    control_plane.kubectl("delete", "namespace", "team-a", "--wait=false")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("operators_kinds", "tenant")
def test_the_api_server_accepts_every_object_without_a_warning(
    control_plane: clusters.Kubernetes, restricted: str, case: str
) -> None:
    manifests = rendered(restricted, case)
    done = control_plane.try_kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"),
        stdin="".join(m.text() for m in manifests),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == len(manifests)


def test_a_second_apply_changes_no_object(control_plane: clusters.Kubernetes, restricted: str) -> None:
    text = "".join(m.text() for m in rendered(restricted))

    def apply() -> dict[str, str]:
        control_plane.kubectl("apply", "--server-side", "--field-manager=mlplatform", "-f", "-", stdin=text)
        found = yaml.safe_load(control_plane.kubectl("get", "-o", "yaml", "-f", "-", stdin=text))
        return {
            f"{o['kind']}/{o['metadata']['name']}": o["metadata"]["resourceVersion"] for o in found["items"]
        }

    assert apply() == apply()


@pytest.fixture
def bootstrap_api(control_plane: clusters.Kubernetes, restricted: str, tmp_path: Path) -> bootstrap.Api:
    """The login that the bootstrap Job's pod has, with the rights that the chart gives it and no others."""
    roles = [
        m
        for m in rendered(restricted)
        if m.name == "mlflow-bootstrap" and m.kind in ("ServiceAccount", "Role", "RoleBinding")
    ]
    control_plane.kubectl("apply", "-f", "-", stdin="".join(m.text() for m in roles))
    token = control_plane.kubectl("-n", restricted, "create", "token", "mlflow-bootstrap").strip()
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    return bootstrap.Api(cluster["server"], Path(cluster["certificate-authority"]), token, restricted)


def secrets_of(control_plane: clusters.Kubernetes, namespace: str) -> dict[str, dict[str, str]]:
    found = json.loads(control_plane.kubectl("-n", namespace, "get", "secrets", "-o", "json"))
    return {
        o["metadata"]["name"]: {k: base64.b64decode(v).decode() for k, v in o["data"].items()}
        for o in found["items"]
    }


def test_bootstrap_makes_the_secrets_once(
    control_plane: clusters.Kubernetes, bootstrap_api: bootstrap.Api
) -> None:
    namespace = bootstrap_api.namespace
    control_plane.kubectl(
        "-n", namespace, "create", "secret", "generic", "mlflow-store", "--from-literal=a=b"
    )
    (job,) = (m for m in rendered(namespace) if m.kind == "Job" and "bootstrap" in m.name)
    wanted = json.loads(job.object["spec"]["template"]["spec"]["containers"][0]["args"][0])
    assert bootstrap.create(bootstrap_api, wanted) == {
        "mlflow-auth": True,
        "mlflow-database": True,
        "mlflow-store": False,
    }
    made = secrets_of(control_plane, namespace)
    assert made["mlflow-store"] == {"a": "b"}
    assert made["mlflow-database"]["username"] == "mlflow"
    assert len(made["mlflow-auth"]["password"]) >= 12  # MLflow's least, since 3.16.1
    assert len(base64.urlsafe_b64decode(made["mlflow-auth"]["webhookKey"])) == 32
    assert len({v for keys in made.values() for v in keys.values()}) == sum(len(k) for k in made.values())
    assert set(bootstrap.create(bootstrap_api, wanted).values()) == {False}
    assert secrets_of(control_plane, namespace) == made


def test_bootstrap_without_the_right_says_so(
    control_plane: clusters.Kubernetes, bootstrap_api: bootstrap.Api
) -> None:
    control_plane.kubectl("-n", bootstrap_api.namespace, "delete", "rolebinding", "mlflow-bootstrap")
    deadline = time.monotonic() + 10  # the authorizer sees the change a moment later

    def until_refused() -> None:
        while time.monotonic() < deadline:
            bootstrap.create(bootstrap_api, {f"x{time.monotonic_ns()}": {"k": {"hex": 4}}})

    with pytest.raises(Rejected, match=r"HTTP 403.*\n    check the Job's ServiceAccount and Role"):
        until_refused()


def test_bundled_database_and_store_run_and_keep_their_data(
    cluster: clusters.Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from botocore.config import Config

    for image in ("postgres", "seaweedfs"):
        cluster.load(image)
    cluster.apply(namespace_object(namespace))
    keys = {
        "mlflow-database": {"username": "mlflow", "password": "p@ss/&%:word"},
        "mlflow-store": {"accessKeyId": "access", "secretAccessKey": "secret"},
    }
    for name, data in keys.items():
        cluster.apply(secret(name, **data), namespace=namespace)
    bundled = [
        m
        for m in rendered(namespace, "local")
        if m.template in ("postgres.yaml.j2", "store.yaml.j2", "serviceaccounts.yaml.j2")
    ]
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin="".join(m.text() for m in bundled))

    def ready() -> None:
        for name in ("mlflow-postgres", "mlflow-store"):
            cluster.kubectl("-n", namespace, "rollout", "status", f"statefulset/{name}", "--timeout=120s")

    def address(service: str) -> str:
        return cluster.kubectl("-n", namespace, "get", "service", service, "-o", "jsonpath={.spec.clusterIP}")

    ready()
    monkeypatch.setenv("PGHOST", address("mlflow-postgres"))
    monkeypatch.setenv("PGUSER", keys["mlflow-database"]["username"])
    monkeypatch.setenv("PGPASSWORD", keys["mlflow-database"]["password"])
    monkeypatch.setenv("PGDATABASE", "mlflow")
    with psycopg.connect() as connection:
        assert connection.execute("show server_encoding").fetchone() == ("UTF8",)
        assert connection.execute("show max_connections").fetchone() == ("100",)
        connection.execute("create table kept as select 42 as answer")
    s3 = boto3.client(
        "s3",
        endpoint_url=f"http://{address('mlflow-store')}:8333",
        region_name="us-east-1",
        aws_access_key_id="access",
        aws_secret_access_key="secret",
        # A store that has just started answers 500 until its volumes have reported to its master.
        config=Config(retries={"mode": "standard", "total_max_attempts": 15}),
    )
    s3.put_object(Bucket="mlflow", Key="a/b", Body=b"kept")  # the bucket is made by this
    # One volume a bucket, so that a second bucket finds place on a small disk.
    there = cluster.kubectl("-n", namespace, "exec", "mlflow-store-0", "--", "ls", "/data").split()
    assert len([name for name in there if name.startswith("mlflow_") and name.endswith(".dat")]) == 1
    for stranger in ("other", ""):
        refused = boto3.client(
            "s3",
            endpoint_url=s3.meta.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=stranger or "access",
            aws_secret_access_key="wrong",
        )
        with pytest.raises(refused.exceptions.ClientError):
            refused.get_object(Bucket="mlflow", Key="a/b")
    pod = ("-n", namespace, "get", "pod", "mlflow-store-0", "-o", "jsonpath={.status.podIP}")
    pod_ip = cluster.kubectl(*pod)
    for port in (9333, 8080, 8888):  # master, volumes and filer know no login: not reachable from other pods
        pod_ip = cluster.kubectl(
            "-n", namespace, "get", "pod", "mlflow-store-0", "-o", "jsonpath={.status.podIP}"
        )
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((pod_ip, port)) != 0, f"port {port} is open"

    cluster.kubectl("-n", namespace, "delete", "pod", "mlflow-postgres-0", "mlflow-store-0")
    ready()
    with psycopg.connect() as connection:
        assert connection.execute("select answer from kept").fetchone() == (42,)
    assert s3.get_object(Bucket="mlflow", Key="a/b")["Body"].read() == b"kept"
    s3.close()
