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
from mlflow_platform.deploy.turns import lease
from tests.cluster import clusters
from tests.cluster.acknowledged import failures
from tests.cluster.release import WAYS_IN, Release, deploy, mlplatform
from tests.cluster.test_load import PATIENCE, kubectl, logging, pods, report, restarts, until

#: Clients enough that each server has some; the full load is test_load's.
CLIENTS = {"raw": 8, "mlflow": 1}
#: Where a rotation of the database or the store is killed, each time a bit further on: at which of that
#: command's writes, and whether before it or after.
POINTS = (
    (1, "before"),  # nothing is written
    (2, "after"),  # what comes next is staged, a Job of before is gone
    (3, "before"),  # the Job has passed, and is still there
    (4, "after"),  # the Secret that everybody reads is changed
    (1, "after"),  # the servers are being replaced
    (4, "before"),  # the last Job has passed; the rotation's own Secret is still there
)


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


def killed(live: Release, n: int, moment: str, *arguments: str) -> bool:
    """Whether a rotation was killed at its n-th write; False: it ended before, and well."""
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
    if done.returncode == -signal.SIGKILL:
        return True
    assert done.returncode == 0, done.stderr
    return False


def killed_on_the_way(live: Release, what: str, *points: tuple[int, str]) -> None:
    """Run it again and again, killed at each of the points, and then to its end."""
    for n, moment in points:
        assert killed(live, n, moment, what), f"it ended before it came to {moment} write {n}"
        end_turn(live)
    rotate(live, what)


def end_turn(live: Release) -> None:
    """Of a dead command, at once; by itself it ends after 45 s (mlflow_platform/deploy/turns.py)."""
    kubectl(live, "delete", "lease", lease(chart.Release("mlflow", live.namespace)))


def said(live: Release, *secrets: str) -> None:
    """No log of the release holds one of these."""
    for name in json.loads(kubectl(live, "get", "pods", "-o", "json"))["items"]:
        log = kubectl(live, "logs", name["metadata"]["name"], "--all-containers", "--tail=-1")
        assert not any(s in log for s in secrets)


def nothing_is_left(live: Release, *rotated: str) -> None:
    """No trace of the rotations; a deployment finds nothing to do and replaces no pod."""
    for what in rotated:
        assert secret(live, f"mlflow-{what}-rotation") == {}
    assert "rotate" not in kubectl(live, "get", "jobs,pods", "-o", "name")
    before = [pods(live, component).keys() for component in ("server", "postgres", "store")]
    outcome = deploy(live.node, "-n", live.namespace, *WAYS_IN, "--no-smoke")
    assert set(outcome["changes"].values()) == {"unchanged"}
    assert [pods(live, component).keys() for component in ("server", "postgres", "store")] == before


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


@pytest.mark.timeout(2400)
def test_database_and_store_change_their_credentials_under_load(live: Release, tmp_path: Path) -> None:
    first = secret(live, "mlflow-database"), secret(live, "mlflow-store")
    with logging(live, tmp_path, **CLIENTS) as load:
        began = time.time()
        assert killed(live, *POINTS[0], "database")  # the next one waits until this one's turn is over
        killed_on_the_way(live, "database", *POINTS)
        killed_on_the_way(live, "store", *POINTS)
        load.wait_for_all(time.time(), "artifact")
        load.stop()
        report("database and store rotated", load.records(), began, time.time())
        assert failures(load.records()) == []
        load.nothing_lost_or_doubled()
    second = secret(live, "mlflow-database"), secret(live, "mlflow-store")
    assert [database_user(live, login) for login in (first[0], second[0])] == ["", "mlflow"]
    assert [store_accepts(live, pair) for pair in (first[1], second[1])] == [False, True]
    assert restarts(live) == 0
    said(live, second[0]["password"], second[1]["secretAccessKey"])
    nothing_is_left(live, "database", "store")


@pytest.mark.soak
def test_the_administrators_password_changes_under_load(live: Release, tmp_path: Path) -> None:
    user, first = live.login()
    with logging(live, tmp_path, **CLIENTS) as load:  # with the first password, all the time
        began, n = time.time(), 1
        while killed(live, n, "before" if n % 2 else "after", "admin"):
            n += 1  # each time one write later than the last time
        assert n > 4
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
    assert rotate(live, "admin", "--finish")["words"] == ["no server accepts a previous password"]
    assert statuses(live, user, first) == statuses(live, user, second) == {401}
    assert statuses(live, user, third) == {200}
    said(live, second, third)
    nothing_is_left(live, "auth")


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("what", ["database", "store", "admin"])
def test_killed_at_any_write_the_next_one_finishes_it(
    live: Release, tmp_path: Path, what: str, moment: str
) -> None:
    """A rotation a write, one after the other; at the end a password that is accepted no longer."""
    with logging(live, tmp_path, **CLIENTS) as load:
        n = 1
        while killed(live, n, moment, what):
            rotate(live, what)
            n += 1
        load.wait_for_all(time.time())
        load.stop()
        assert failures(load.records()) == []
    if what == "admin":
        user, previous = live.login()
        rotate(live, "admin", "--overlap", "0")
        until(lambda: statuses(live, user, previous) == {401})
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
