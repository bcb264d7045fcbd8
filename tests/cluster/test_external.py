"""A release on a database and a bucket of somebody else: tried before anything is made, then used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import clusters
from tests.cluster.release import SMOKE, deploy, mlplatform, state, steps

LOGIN = {"username": "theirs", "password": "their-password"}
KEYS = {"accessKeyId": "their-id", "secretAccessKey": "their-secret"}


def server(name: str, image: str, port: int, env: dict[str, str], **container: Any) -> list[dict[str, Any]]:
    """A pod with a Service of the same name."""
    labels = {"app": name}
    variables = [{"name": k, "value": v} for k, v in env.items()]
    probe = {"tcpSocket": {"port": port}, "periodSeconds": 1}
    spec = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": variables,
        "readinessProbe": probe,
    }
    pod = {"containers": [{**spec, **container}], "terminationGracePeriodSeconds": 1}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": pod},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": labels, "ports": [{"port": port}]},
        },
    ]


@pytest.fixture
def outside(node: clusters.Cluster) -> Iterator[str]:
    """A namespace with a Postgres and an S3 store that are nobody's release."""
    name = "outside"
    weed = ["-dir=/tmp", "-ip=127.0.0.1", "-filer", "-s3", "-s3.port=8333", "-s3.ip.bind=0.0.0.0"]
    node.kubectl("create", "namespace", name)
    node.apply(
        *server(
            "db",
            "docker.io/library/postgres:17",
            5432,
            {
                "POSTGRES_USER": LOGIN["username"],
                "POSTGRES_PASSWORD": LOGIN["password"],
                "POSTGRES_DB": "mlflow",
            },
        ),
        *server(
            "s3",
            "docker.io/chrislusf/seaweedfs:4.48",
            8333,
            {"AWS_ACCESS_KEY_ID": KEYS["accessKeyId"], "AWS_SECRET_ACCESS_KEY": KEYS["secretAccessKey"]},
            command=["weed", "server", *weed, "-master.telemetry=false"],
        ),
        namespace=name,
    )
    node.kubectl("-n", name, "wait", "--for=condition=Ready", "pod/db", "pod/s3", "--timeout=100s")
    yield name
    node.kubectl("delete", "namespace", name, "--wait=false")


def secret(node: clusters.Cluster, namespace: str, name: str, data: dict[str, str]) -> None:
    found = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
    node.apply(found, namespace=namespace)


def test_what_is_wrong_with_them_stops_it_before_anything_is_made(
    node: clusters.Cluster, restricted: str, outside: str
) -> None:
    external = {
        "database.mode": "external",
        "database.existingSecret": "theirs",
        "database.external": json.dumps({"host": f"db.{outside}.svc", "sslMode": "disable"}),
        "store.mode": "external",
        "store.existingSecret": "keys",
        "store.external.endpoint": f"http://s3.{outside}.svc:8333",
    }
    settings = [x for key, value in external.items() for x in ("--set", f"{key}={value}")]
    command = ("-n", restricted, "--profile", "local", *settings)
    secret(node, restricted, "theirs", {**LOGIN, "password": "another"})
    secret(node, restricted, "keys", {**KEYS, "secretAccessKey": "another"})
    stopped = mlplatform(node, "deploy", *command)
    assert stopped.returncode == 1
    assert "Job mlflow-preflight failed" in stopped.stderr
    assert 'password authentication failed for user "theirs"' in stopped.stderr
    assert "SignatureDoesNotMatch" in stopped.stderr
    assert {k.split("/")[0] for k in state(node, restricted) if "mlflow" in k} == {
        "Job",
        "Pod",
        "ServiceAccount",
    }

    secret(node, restricted, "theirs", LOGIN)
    secret(node, restricted, "keys", KEYS)
    refused = mlplatform(node, "deploy", *command, "--set", "database.maxConnections=5000")
    assert refused.returncode == 1
    assert "max_connections is 100, the value database.maxConnections says 5000" in refused.stderr

    outcome = deploy(node, *command)
    assert steps(outcome) == SMOKE
    assert "database and bucket" in outcome["seconds"]
    assert not [k for k in state(node, restricted) if k.startswith("StatefulSet")]


def test_a_quota_that_the_release_does_not_fit_is_named(node: clusters.Cluster, restricted: str) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}}
    node.apply({**quota, "spec": {"hard": {"requests.memory": "1Gi", "pods": "50"}}}, namespace=restricted)
    stopped = mlplatform(node, "deploy", "-n", restricted)
    assert stopped.returncode == 1
    assert "ResourceQuota team allows 1Gi requests.memory, others use 0, the release needs" in stopped.stderr
    assert not [k for k in state(node, restricted) if "mlflow" in k]
