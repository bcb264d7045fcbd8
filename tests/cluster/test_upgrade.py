"""From an older MLflow to this one and back, on a real node: with data, clients, and a failure."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests import old_mlflow
from tests.cluster import clusters
from tests.cluster.release import SMOKE, Release, ask, deploy, mlplatform, steps

#: Of the releases with the schema before the present one, the first that this chart configures.
OLD = "3.16.1"
REPOSITORY = clusters.PLATFORM_IMAGE.rpartition(":")[0]
#: What the platform's Dockerfile is followed by.
_OLDER = """
COPY --from=old . /opt/old-mlflow
ENV PYTHONPATH=/opt/old-mlflow:/opt/mlplatform-code
"""
SCALED = "server.autoscaling={enabled: true, minReplicas: 2, maxReplicas: 3}"


@pytest.fixture(scope="module")
def old_image(node: clusters.Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Tag of the platform's image with an older MLflow in front of its own, on the node."""
    root, recipe = Path(__file__).parents[2], tmp_path_factory.mktemp("old") / "Dockerfile"
    recipe.write_text((root / "platform" / "Dockerfile").read_text() + _OLDER)
    more = ("-f", str(recipe), "--build-context", f"old={old_mlflow.installed(OLD)}")
    archive = clusters.script("image", "build", str(root), f"{REPOSITORY}:{OLD}", *more).strip()
    clusters.script("load", archive, environment={"CLUSTER_DIR": str(node.folder)})
    Path(archive).unlink()  # 1.3 GB, and built in seconds
    return OLD


class Clients:
    """They log and read through the Service, each request on a connection of its own, none repeated."""

    def __init__(self, release: Release, experiment: str, count: int = 4) -> None:
        self.address, self.host = f"http://{release.address}:5000", release.host
        self.headers = {
            **urllib3.make_headers(basic_auth=":".join(release.login())),
            "host": self.host,
            "connection": "close",
        }
        self.failed: list[str] = []
        self.logged: dict[str, int] = {}
        self.experiment = experiment
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(count)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        made = self._ask("POST", "runs/create", {"experiment_id": self.experiment})
        if made is None:
            return
        run = made["run"]["info"]["run_id"]
        self.logged[run] = 0
        while not self._stop.is_set():
            step = self.logged[run]
            metric = {"run_id": run, "key": "m", "value": step, "timestamp": step, "step": step}
            if self._ask("POST", "runs/log-metric", metric) is not None:
                self.logged[run] += 1
            self._ask("GET", f"runs/get?run_id={run}")
            time.sleep(0.05)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = urllib3.request(
                method,
                f"{self.address}/api/2.0/mlflow/{path}",
                json=body,
                headers=self.headers,
                retries=False,
                timeout=60,
            )
        except urllib3.exceptions.HTTPError as error:
            self.failed.append(f"{method} {path}: {error}")
            return None
        if answer.status != 200:
            self.failed.append(f"{method} {path}: {answer.status} {answer.data[:300]!r}")
            return None
        return answer.json()


class Autoscaler:
    """What the autoscaler's limits are while something goes on: each different state once."""

    def __init__(self, node: clusters.Cluster, namespace: str) -> None:
        self.seen: list[tuple[int, int]] = []
        self._node, self._namespace = node, namespace
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Autoscaler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            found = autoscaler(self._node, self._namespace)
            now = found["spec"]["minReplicas"], found["spec"]["maxReplicas"]
            if now not in self.seen[-1:]:
                self.seen.append(now)


def autoscaler(node: clusters.Cluster, namespace: str) -> Any:
    return json.loads(node.kubectl("-n", namespace, "get", "hpa", "mlflow-server", "-o", "json"))


def sql(node: clusters.Cluster, namespace: str, statement: str) -> str:
    """What psql says, in the bundled Postgres's pod."""
    program = 'PGPASSWORD="$POSTGRES_PASSWORD" exec psql -U "$POSTGRES_USER" -h 127.0.0.1 -d mlflow -Atc "$0"'
    where = ("-n", namespace, "exec", "mlflow-postgres-0", "--")
    return node.kubectl(*where, "sh", "-c", program, statement).strip()


def server_image(node: clusters.Cluster, namespace: str) -> str:
    path = "jsonpath={.spec.template.spec.containers[0].image}"
    return node.kubectl("-n", namespace, "get", "deployment", "mlflow-server", "-o", path)


def some_data(node: clusters.Cluster, namespace: str) -> str:
    """Users, grants, a model, a trace with spans; the experiment that holds the runs of clients."""
    api = "/api/2.0/mlflow"
    ask(node, namespace, f"{api}/users/create", {"username": "ann", "password": "a-long-password"})
    experiment = ask(node, namespace, f"{api}/experiments/create", {"name": "before"})["experiment_id"]
    grant = {
        "username": "ann",
        "resource_type": "experiment",
        "resource_id": experiment,
        "permission": "EDIT",
    }
    ask(node, namespace, "/api/3.0/mlflow/users/permissions/grant", grant)
    ask(node, namespace, f"{api}/registered-models/create", {"name": "a-model"})
    info = {
        "trace_id": "tr-before",
        "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}},
        "request_time": "2026-01-01T00:00:00Z",
        "state": "OK",
        "trace_metadata": {"mlflow.trace.session": "a session"},
    }
    ask(node, namespace, "/api/3.0/mlflow/traces", {"trace": {"trace_info": info}})
    return str(experiment)


def counts(node: clusters.Cluster, namespace: str) -> dict[str, int]:
    tables = ("experiments", "users", "role_permissions", "registered_models", "trace_info", "runs")
    return {t: int(sql(node, namespace, f"select count(*) from {t}")) for t in tables}


def names_of_dumps(node: clusters.Cluster, namespace: str) -> list[str]:
    shown = mlplatform(node, "dumps", "-n", namespace)
    assert shown.returncode == 0, shown.stderr
    return [line.split()[0] for line in shown.stdout.splitlines() if "revisions" in line]


@pytest.fixture
def upgraded(node: clusters.Cluster, restricted: str, old_image: str) -> tuple[Release, str]:
    """A release of the older MLflow with data; and its experiment."""
    outcome = deploy(node, "-n", restricted, "--set", f"image.tag={old_image}", "--set", SCALED)
    assert steps(outcome) == SMOKE
    return Release(node, restricted), some_data(node, restricted)


@pytest.mark.soak
def test_an_upgrade_that_fails_one_that_does_not_and_the_way_back(
    node: clusters.Cluster, old_image: str, upgraded: tuple[Release, str]
) -> None:
    release, experiment = upgraded
    namespace = release.namespace
    new = ("deploy", "-n", namespace, "--set", SCALED)
    before = sql(node, namespace, "select version_num from alembic_version")
    # Made by hand, and in the way of the last migration.
    sql(node, namespace, "create table scheduler_leases (mine int)")
    with Clients(release, experiment) as clients, Autoscaler(node, namespace) as scaling:
        failed = mlplatform(node, *new)
        assert failed.returncode == 1
        assert "the migration of tracking failed, nothing was changed" in failed.stderr
        assert 'relation "scheduler_leases" already exists' in failed.stderr
        assert sql(node, namespace, "select version_num from alembic_version") == before
        assert server_image(node, namespace).endswith(f":{old_image}")
    assert clients.failed == []
    assert (2, 2) in scaling.seen or (1, 1) in scaling.seen
    assert scaling.seen[-1] == (2, 3)
    print(f"during the failed upgrade: {sum(clients.logged.values())} metrics logged, {scaling.seen}")

    sql(node, namespace, "drop table scheduler_leases")
    held = counts(node, namespace)
    with Clients(release, experiment) as clients, Autoscaler(node, namespace) as scaling:
        outcome = deploy(node, *new[1:])
        time.sleep(1)
    assert steps(outcome) == SMOKE
    assert clients.failed == []
    assert scaling.seen[-1] == (2, 3)
    assert "annotations" not in autoscaler(node, namespace)["metadata"]
    assert server_image(node, namespace) == clusters.PLATFORM_IMAGE.removeprefix("docker.io/library/")
    assert sql(node, namespace, "select version_num from alembic_version") != before
    now = counts(node, namespace)
    print(f"during the upgrade: {sum(clients.logged.values())} metrics logged; {outcome['seconds']}")
    assert now.pop("runs") == held.pop("runs") + len(clients.logged) + 1  # and the smoke test's
    assert now == held
    for run, metrics in clients.logged.items():
        stored = sql(node, namespace, f"select count(*) from metrics where run_uuid = '{run}'")
        assert int(stored) == metrics
    trace = ask(node, namespace, "/api/3.0/mlflow/traces/tr-before")["trace"]["trace_info"]
    assert trace["trace_metadata"]["mlflow.trace.session"] == "a session"

    dumps = names_of_dumps(node, namespace)
    assert [d.split("-", 1)[1] for d in dumps] == [before] * len(dumps)
    back = mlplatform(node, "dumps", "-n", namespace, "--restore", dumps[-1], "--yes")
    assert back.returncode == 0, back.stderr
    assert "what was there is in the schema mlplatform_replaced_" in back.stdout
    assert sql(node, namespace, "select version_num from alembic_version") == before
    outcome = deploy(node, "-n", namespace, "--set", f"image.tag={old_image}", "--set", SCALED)
    assert steps(outcome) == SMOKE
    restored = counts(node, namespace)
    assert {t: n for t, n in restored.items() if t != "runs"} == held
