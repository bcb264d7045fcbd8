"""Every way in to servers on a real node, under the names and addresses that clients really use."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.cluster import clusters, ways_in
from tests.cluster.release import GATEWAY_HOST, INGRESS_HOST, Release

REFUSED = {"flask": 403, "artifact written": 403, "artifact read": 403, "trace": 403}
ACCEPTED = {"flask": 200, "artifact written": 200, "artifact read": 200, "trace": 200}


def login(release: Release) -> dict[str, str]:
    return urllib3.make_headers(basic_auth=":".join(release.login()))


def servers(release: Release) -> list[dict[str, Any]]:
    """The server pods that are not about to end."""
    found = json.loads(
        release.node.kubectl(
            *(
                "-n",
                release.namespace,
                "get",
                "pods",
                "-l",
                "app.kubernetes.io/component=server",
                "-o",
                "json",
            )
        )
    )
    return [p for p in found["items"] if "deletionTimestamp" not in p["metadata"]]


@contextlib.contextmanager
def client_pod(release: Release, ways: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """A pod with the platform's image that has tried every way in: what it printed."""
    secret = {"name": "mlflow-auth"}
    container = {
        "name": "client",
        "image": clusters.PLATFORM_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["python", "-c", Path(ways_in.__file__).read_text(), json.dumps(ways)],
        "env": [
            {"name": name, "valueFrom": {"secretKeyRef": {**secret, "key": key}}}
            for name, key in (("USERNAME", "username"), ("PASSWORD", "password"))
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "ways-in"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        },
    }
    here = ("-n", release.namespace)
    release.node.apply(pod, namespace=release.namespace)
    try:
        ended = "jsonpath={.status.phase}"
        until(
            lambda: release.node.kubectl(*here, "get", "pod/ways-in", "-o", ended) in ("Succeeded", "Failed")
        )
        yield json.loads(release.node.kubectl(*here, "logs", "ways-in").splitlines()[-1])
    finally:
        release.node.kubectl(*here, "delete", "pod", "ways-in", "--wait=false")


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_every_name_and_address_is_let_in_and_no_other(live: Release) -> None:
    names = ["mlflow", *(f"mlflow.{live.namespace}{end}" for end in ("", ".svc", ".svc.cluster.local"))]
    addresses = [pod["status"]["podIP"] for pod in servers(live)]
    assert len(addresses) == 2
    accepted = [(f"http://{name}:5000", "") for name in [*names, *addresses]]
    # What an Ingress or a Gateway passes on, with and without its port.
    accepted += [(names[0], host) for host in (INGRESS_HOST, GATEWAY_HOST)]
    accepted += [(names[0], f"{host}:443") for host in (INGRESS_HOST, GATEWAY_HOST)]
    refused = [
        (names[0], host) for host in ("evil.example.com", f"{INGRESS_HOST}.evil.org", "10.244.255.254:5000")
    ]
    ways = [(a if "://" in a else f"http://{a}:5000", host) for a, host in accepted + refused]
    with client_pod(live, ways) as answers:
        found = {(address, host): answers[f"{address} {host}"] for address, host in ways}
    wanted = {way: ACCEPTED if i < len(accepted) else REFUSED for i, way in enumerate(ways)}
    assert found == wanted


def test_port_forward(live: Release) -> None:
    command = [str(live.node.kubectl_path), "--kubeconfig", str(live.node.kubeconfig), "-n", live.namespace]
    forward = subprocess.Popen(
        [*command, "port-forward", "service/mlflow", ":5000"], stdout=subprocess.PIPE, text=True
    )
    assert forward.stdout is not None
    try:
        port = re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline())
        assert port is not None
        for host in ("localhost", "127.0.0.1"):
            assert ways_in.try_way(f"http://{host}:{port[1]}", "", login(live)) == ACCEPTED
    finally:
        forward.terminate()
        forward.communicate()


def test_metrics_are_for_administrators_and_readiness_for_all(live: Release) -> None:
    pod = f"http://{servers(live)[0]['status']['podIP']}:5000"
    user = {"username": "metrics-reader", "password": "reads-no-metrics"}

    def get(path: str, **headers: str) -> urllib3.BaseHTTPResponse:
        return urllib3.request("GET", f"{pod}{path}", headers=headers, retries=False, timeout=60)

    made = urllib3.request(
        "POST",
        f"{pod}/api/2.0/mlflow/users/create",
        json=user,
        headers=login(live),
        retries=False,
        timeout=60,
    )
    assert made.status == 200, made.data
    try:
        answer = get("/metrics", **login(live))
        assert answer.status == 200
        assert b"mlflow_http_request_total" in answer.data
        assert get("/metrics").status == 401
        stranger = urllib3.make_headers(basic_auth=":".join(user.values()))
        assert get("/metrics", **stranger).status == 403
    finally:
        urllib3.request(
            *("DELETE", f"{pod}/api/2.0/mlflow/users/delete"),
            json={"username": user["username"]},
            headers=login(live),
            retries=False,
            timeout=60,
        )
    for path in ("/readyz", "/health"):
        answer = get(path, Host="evil.example.com")
        assert (answer.status, answer.data) == (200, b"OK")
    assert get("/version", **login(live)).data == b"3.17.2"


def test_a_server_has_the_certificate_authorities_that_it_is_told_of(live: Release) -> None:
    count = "import ssl, sys; print(len(ssl.create_default_context(cafile=sys.argv[1]).get_ca_certs()))"
    command = ["python", "-c", count, "/etc/ssl/certs/ca-certificates.crt"]  # the chart's PGSSLROOTCERT
    said = live.node.kubectl(
        *("-n", live.namespace, "exec", "deployment/mlflow-server", "-c", "server", "--", *command)
    )
    assert int(said) > 50


def test_without_its_database_no_server_is_ready_or_restarted(live: Release) -> None:
    here = ("-n", live.namespace)

    def ready() -> list[bool]:
        return [pod["status"]["containerStatuses"][0]["ready"] for pod in servers(live)]

    before = {pod["metadata"]["uid"] for pod in servers(live)}
    assert ready() == [True, True]
    live.node.kubectl(*here, "scale", "statefulset/mlflow-postgres", "--replicas=0")
    try:
        until(lambda: ready() == [False, False])
        pod = servers(live)[0]["status"]["podIP"]
        answer = urllib3.request("GET", f"http://{pod}:5000/readyz", retries=False)
        assert answer.status == 503
        assert answer.data.decode().startswith("the tracking database ")
    finally:
        live.node.kubectl(*here, "scale", "statefulset/mlflow-postgres", "--replicas=1")
    until(lambda: ready() == [True, True])
    assert {pod["metadata"]["uid"] for pod in servers(live)} == before
    assert {pod["status"]["containerStatuses"][0]["restartCount"] for pod in servers(live)} == {0}


@pytest.mark.parametrize("path", ["/readyz", "/health"])
def test_probes_ask_what_they_should(live: Release, path: str) -> None:
    container = servers(live)[0]["spec"]["containers"][0]
    probe = container["readinessProbe" if path == "/readyz" else "livenessProbe"]
    assert probe["httpGet"]["path"] == path
    # The database has 3 s to answer (mlflow_platform/server/probes.py).
    assert probe["timeoutSeconds"] > 3
