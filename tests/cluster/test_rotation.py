"""Passwords and keys are changed while clients log, by a command that is killed on its way."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
import urllib3
from botocore.exceptions import ClientError

from mlflow_platform import chart
from tests.cluster import clusters
from tests.cluster.acknowledged import failures
from tests.cluster.release import Release, deploy, mlplatform
from tests.cluster.test_load import PATIENCE, kubectl, logging, pods, report, restarts, until

#: Clients enough that each server has some; the full load is test_load's.
CLIENTS = 8


def secret(live: Release, name: str) -> dict[str, str]:
    """A Secret's content; empty if there is none."""
    found = live.node.try_kubectl("-n", live.namespace, "get", "secret", name, "-o", "json")
    data: dict[str, str] = json.loads(found.stdout)["data"] if found.returncode == 0 else {}
    return {k: base64.b64decode(v).decode() for k, v in data.items()}


def rotate(live: Release, *arguments: str) -> dict[str, Any]:
    done = mlplatform(live.node, "rotate", *arguments, "-n", live.namespace, "--json")
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    print(f"\nrotate {' '.join(arguments)}: {outcome['seconds']}")
    return outcome


def killed_on_the_way(live: Release, *arguments: str) -> int:
    """Run it until it ends, each time killed one write later than the last time; how often it was."""
    for n in range(1, 40):
        moment = "before" if n % 2 else "after"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.cluster.dying_rotation", str(n), moment),
                *(*arguments, "-n", live.namespace),
            ],
            env={**os.environ, "KUBECONFIG": str(live.node.kubeconfig)},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0, done.stderr
            assert "Traceback" not in done.stderr
            return n - 1
    raise AssertionError("it never ended")


def said(live: Release, *secrets: str) -> None:
    """No log of the release holds one of these."""
    for name in json.loads(kubectl(live, "get", "pods", "-o", "json"))["items"]:
        log = kubectl(live, "logs", name["metadata"]["name"], "--all-containers", "--tail=-1")
        assert not any(s in log for s in secrets)


def nothing_is_left(live: Release, what: str) -> None:
    """No trace of the rotation; a deployment finds nothing to do and replaces no pod."""
    assert secret(live, f"mlflow-{what}-rotation") == {}
    assert "rotate" not in kubectl(live, "get", "jobs,pods", "-o", "name")
    before = {u for component in ("server", "postgres", "store") for u in pods(live, component)}
    outcome = deploy(live.node, "-n", live.namespace, "--no-smoke")
    assert set(outcome["changes"].values()) == {"unchanged"}
    assert {u for component in ("server", "postgres", "store") for u in pods(live, component)} == before


def database_user(live: Release, login: dict[str, str]) -> str:
    """As whom Postgres lets somebody act; empty if it refuses the login."""
    try:
        with psycopg.connect(
            host=address(live, "mlflow-postgres"),
            dbname="mlflow",
            user=login["username"],
            password=login["password"],
        ) as connection:
            return str(connection.execute("select current_user").fetchone()[0])  # type: ignore[index]
    except psycopg.OperationalError as error:
        if "password authentication failed" not in str(error):
            raise
        return ""


def test_database_and_store_change_their_credentials_under_load(live: Release, tmp_path: Path) -> None:
    first = secret(live, "mlflow-database"), secret(live, "mlflow-store")
    with logging(live, tmp_path, CLIENTS) as load:
        began = time.time()
        rotate(live, "database")
        second = secret(live, "mlflow-database")
        assert second["username"] != first[0]["username"]
        assert [database_user(live, login) for login in (first[0], second)] == ["", "mlflow"]
        nothing_is_left(live, "database")
        rotate(live, "store")
        third = secret(live, "mlflow-store")
        assert third["accessKeyId"] != first[1]["accessKeyId"]
        for pair, accepted in ((first[1], False), (third, True)):
            assert store_accepts(live, pair) is accepted
        nothing_is_left(live, "store")
        since = time.time()
        load.wait_for_all(since)
        load.wait_for_all(since, "artifact")
        load.stop()
        report("database and store rotated", load.records(), began, time.time())
        assert failures(load.records()) == []
        load.nothing_lost_or_doubled()
    assert restarts(live) == 0
    said(live, second["password"], third["secretAccessKey"])


def test_the_administrators_password_changes_under_load(live: Release, tmp_path: Path) -> None:
    user, first = live.login()
    with logging(
        live, tmp_path, CLIENTS
    ) as load:  # as the administrator, with the first password all the time
        began = time.time()
        rotate(live, "admin")
        second = live.login()[1]
        rotate(live, "admin")
        third = live.login()[1]
        assert len({first, second, third}) == 3
        for password in (first, second, third):
            assert statuses(live, user, password) == {200}
        load.wait_for_all(time.time())
        load.stop()
        report("administrator rotated twice", load.records(), began, time.time())
        assert failures(load.records()) == []
        load.server.login = (user, third)
        load.server.__post_init__()
        load.nothing_lost_or_doubled()
    outcome = rotate(live, "admin", "--finish")
    assert outcome["words"] == ["no server accepts a previous password"]
    assert statuses(live, user, first) == statuses(live, user, second) == {401}
    assert statuses(live, user, third) == {200}
    nothing_is_left(live, "auth")
    rotate(live, "admin", "--overlap", "0")
    fourth = live.login()[1]
    until(lambda: statuses(live, user, third) == {401})
    assert statuses(live, user, fourth) == {200}
    assert rotate(live, "admin", "--finish")["remaining"] == ""
    said(live, second, third, fourth)


@pytest.mark.parametrize("what", ["database", "store", "admin"])
def test_killed_at_one_write_after_the_other_it_is_finished(live: Release, tmp_path: Path, what: str) -> None:
    name = {"database": "mlflow-database", "store": "mlflow-store", "admin": "mlflow-auth"}[what]
    before = secret(live, name)
    with logging(live, tmp_path, CLIENTS) as load:
        times = killed_on_the_way(live, what)
        assert times > 3
        if what == "admin":
            assert statuses(live, before["username"], before["password"]) == {200}
        load.wait_for_all(time.time())
        load.stop()
        print(f"\nrotate {what}: killed {times} times")
        assert failures(load.records()) == []
    after = secret(live, name)
    changed = {k for k in after if after[k] != before[k]}
    assert (
        changed
        == {
            "database": {"username", "password"},
            "store": {"accessKeyId", "secretAccessKey"},
            "admin": {"password"},
        }[what]
    )
    if what == "admin":
        rotate(live, "admin", "--finish")
    nothing_is_left(live, {"admin": "auth"}.get(what, what))


def test_what_it_cannot_do_is_said(control_plane: clusters.Kubernetes) -> None:
    def refused(*arguments: str) -> str:
        done = mlplatform(control_plane, "rotate", *arguments, "-n", "refusals")
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr

    def server(*settings: str, **metadata: Any) -> None:
        """The servers' Deployment with these values, and the database's Secret with this metadata."""
        found_chart = chart.find_chart()
        manifests = found_chart.render(
            found_chart.values(settings=settings), chart.Release("mlflow", "refusals")
        )
        (found,) = (m.object for m in manifests if m.kind == "Deployment")
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mlflow-database", **metadata}}
        content = {"stringData": {"username": "mlflow", "password": "not to be shown"}}
        keys = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}}
        pair = {"stringData": {"accessKeyId": "mine", "secretAccessKey": "not to be shown"}}
        control_plane.apply(found, {**secret, **content}, {**keys, **pair}, namespace="refusals")

    control_plane.kubectl("create", "namespace", "refusals")
    assert "there is no release mlflow in namespace refusals" in refused("database")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "the-owner", "uid": "0"}
    server("store.existingSecret=mine", ownerReferences=[owner])
    assert "Secret mlflow-database belongs to ConfigMap the-owner" in refused("database")
    assert "there is no Secret mlflow-auth in namespace refusals" in refused("admin")
    server("store.mode=external", "store.existingSecret=mine", "store.external.endpoint=http://s3:9000")
    assert "only its owner can make a pair of keys" in refused("store")
    server("store.mode=external", "store.external.credentials=identity")
    assert "the servers read no Secret for AWS_ACCESS_KEY_ID" in refused("store")
    names = control_plane.kubectl("-n", "refusals", "get", "secrets,jobs", "-o", "name").split()
    assert sorted(names) == ["secret/mine", "secret/mlflow-database"]


def statuses(live: Release, user: str, password: str) -> set[int]:
    """What the servers answer to a login, each asked at its own address."""
    found = set()
    for pod in pods(live, "server").values():
        address = f"{pod['status']['podIP']}:5000"
        answer = urllib3.request(
            "GET",
            f"http://{address}/api/2.0/mlflow/users/current",
            headers=urllib3.make_headers(basic_auth=f"{user}:{password}"),
            retries=False,
            timeout=PATIENCE,
        )
        found.add(answer.status)
    return found


def store_accepts(live: Release, pair: dict[str, str]) -> bool:
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{address(live, 'mlflow-store')}:8333",
        aws_access_key_id=pair["accessKeyId"],
        aws_secret_access_key=pair["secretAccessKey"],
        region_name="us-east-1",
    )
    try:
        client.list_buckets()
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidAccessKeyId":
            raise
        return False
    finally:
        client.close()
    return True


def address(live: Release, service: str) -> str:
    """A Service's cluster address, reachable from this machine."""
    return kubectl(live, "get", "service", service, "-o", "jsonpath={.spec.clusterIP}")
