"""Background jobs with a real Redis: the servers' pods take them, the pod that is there for it runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster import clusters
from tests.cluster.release import SMOKE, ask, deploy, steps
from tests.cluster.test_serving import until
from tests.local.test_jobs import JOB

IMAGE = "localhost/redis:test"
PASSWORD = "p@ss"


@pytest.mark.soak
def test_a_job_is_taken_by_a_server_and_run_in_the_jobs_pod(node: clusters.Cluster, restricted: str) -> None:
    recipe = str(Path(__file__).parent / "images" / "redis")
    archive = clusters.script("image", "build", recipe, IMAGE).strip()
    clusters.script("load", archive, environment={"CLUSTER_DIR": str(node.folder)})
    url = f"redis://:{PASSWORD.replace('@', '%40')}@redis:6379/0"
    redis = {
        "name": "redis",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["redis-server", "--requirepass", PASSWORD, "--save", ""],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
    }
    spec = {
        "containers": [redis],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    labels = {"app": "redis"}
    node.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis"}, "stringData": {"url": url}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "redis", "labels": labels}, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "redis"},
            "spec": {"selector": labels, "ports": [{"port": 6379}]},
        },
        namespace=restricted,
    )
    jobs = "server.jobs={enabled: true, redis: {existingSecret: redis}}"
    outcome = deploy(
        *(node, "-n", restricted, "--profile", "local", "--set", jobs),
        *("--set", "database.maxConnections=150"),
    )
    assert steps(outcome) == SMOKE

    taken = ask(node, restricted, "/ajax-api/3.0/jobs/", JOB)["job_id"]

    def state() -> str:
        return str(ask(node, restricted, f"/ajax-api/3.0/jobs/{taken}")["status"])

    until(lambda: state() not in ("PENDING", "RUNNING"), 180)
    # It ran: the code of the job has looked for the trace in the database.
    assert "Traces not found: ['tr-none']" in json.dumps(ask(node, restricted, f"/ajax-api/3.0/jobs/{taken}"))
    log = node.kubectl("-n", restricted, "logs", "deployment/mlflow-jobs", "-c", "jobs", "--tail=-1")
    assert "Traces not found: ['tr-none']" in log
    assert PASSWORD not in log
    pods = json.loads(node.kubectl("-n", restricted, "get", "pods", "-o", "json"))["items"]
    ran = [s for p in pods for s in p["status"]["containerStatuses"]]
    assert {s["restartCount"] for s in ran} == {0}
