"""Retention by jobs in the cluster, the chart's and the operator's, on runs with proxied artifacts."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import urllib3

from tests.cluster import clusters
from tests.cluster.release import Release

RULES: dict[str, Any] = {"runs": {"softDeletedFor": "1s"}}
#: The 31st of February: jobs are made from the CronJobs by hand, as somebody does who does not want to wait.
NEVER = "0 0 31 2 *"
SPEC: dict[str, Any] = {"schedule": NEVER, "selector": {"experiments": ["retention/*"]}, "rules": RULES}
#: A policy of the chart's, which reports only.
SETTING = f"retention.policies={json.dumps([{'name': 'report', 'spec': {**SPEC, 'dryRun': True}}])}"


class Server:
    """MLflow through the Service's address, as its administrator."""

    def __init__(self, release: Release) -> None:
        self._address = f"http://{release.address}:5000/api/2.0"
        self._headers = urllib3.make_headers(basic_auth=":".join(release.login())) | {"host": release.host}

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and answer; `body` is JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body) if body else None
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        headers = {**self._headers, "content-type": kind}
        answer = urllib3.request(
            method, f"{self._address}{path}", body=data, headers=headers, retries=False, timeout=60
        )
        return answer.status, answer.json() if "json" in answer.headers.get(
            "content-type", ""
        ) else answer.data

    def made(self, path: str, body: dict[str, Any]) -> Any:
        status, answer = self.ask("POST", path, body)
        assert status == 200, answer
        return answer

    def run(self, experiment: str, *, deleted: bool) -> str:
        """A run's artifacts, below the proxied root."""
        id_: str = self.made("/mlflow/runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"]
        artifacts = f"{experiment}/{id_}/artifacts"
        status, answer = self.ask("PUT", f"/mlflow-artifacts/artifacts/{artifacts}/data.txt", b"some data")
        assert status == 200, answer
        assert self.files(artifacts) == ["data.txt"]
        # One that says RUNNING is kept, deleted or not.
        self.made("/mlflow/runs/update", {"run_id": id_, "status": "FINISHED"})
        if deleted:
            self.made("/mlflow/runs/delete", {"run_id": id_})
        return artifacts

    def files(self, artifacts: str) -> list[str]:
        status, answer = self.ask("GET", f"/mlflow-artifacts/artifacts?path={artifacts}")
        assert status == 200, answer
        return [file["path"] for file in answer.get("files", ())]

    def knows(self, artifacts: str) -> bool:
        status, answer = self.ask("GET", f"/mlflow/runs/get?run_id={artifacts.split('/')[1]}")
        assert status == 200 or answer["error_code"] == "RESOURCE_DOES_NOT_EXIST", answer
        return bool(status == 200)


def retention(node: clusters.Cluster, namespace: str) -> None:
    """A policy that only reports; one that the brake stops; the same one, released, on rows and objects."""

    def kubectl(*arguments: str, timeout: float = 330) -> str:
        return node.kubectl("-n", namespace, *arguments, timeout=timeout)

    def job(cron_job: str, name: str, condition: str = "Complete") -> str:
        """What a job of the CronJob prints, when it has ended this way."""
        kubectl("create", "job", f"--from=cronjob/{cron_job}", name)
        kubectl("wait", f"job/{name}", f"--for=condition={condition}", "--timeout=300s", timeout=330)
        return kubectl("logs", f"job/{name}")

    def reach(reason: str) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while True:
            found: dict[str, Any] = json.loads(kubectl("get", "retention", "purge", "-o", "json"))
            (ready,) = (c for c in found["status"]["conditions"] if c["type"] == "Ready")
            if ready["reason"] == reason:
                return {**found["status"], "message": ready["message"]}
            assert time.monotonic() < deadline, ready
            time.sleep(0.5)

    server = Server(Release(node, namespace))
    experiment = server.made("/mlflow/experiments/create", {"name": "retention/purged"})["experiment_id"]
    gone = [server.run(experiment, deleted=True) for _ in range(3)]
    kept = server.run(experiment, deleted=False)
    time.sleep(2)  # the second that runs stay deleted

    said = job("mlflow-retention-report", "report-1")
    assert "3 runs would be purged, 3 objects, 27 bytes" in said
    assert all(server.knows(run) and server.files(run) == ["data.txt"] for run in gone)

    policy = {
        "apiVersion": "mlplatform.io/v1alpha1",
        "kind": "RetentionPolicy",
        "metadata": {"name": "purge"},
        "spec": {**SPEC, "brake": {"maxPercent": 0, "minimum": 1}},
    }
    node.apply(policy, namespace=namespace)
    kubectl("wait", "retention/purge", "--for=condition=Ready", "--timeout=300s")
    said = job("mlflow-retention-purge", "purge-1", "Failed")
    assert (
        len(kubectl("get", "pods", "-l", "batch.kubernetes.io/job-name=purge-1", "-o", "name").split()) == 1
    )
    assert "purge-1" in reach("BrakeStopped")["message"]
    assert all(server.knows(run) for run in gone)

    (hash_,) = set(re.findall(r"--allow-destructive (\w+)", said))
    kubectl("annotate", "retention", "purge", f"mlplatform.io/allow-destructive-plan={hash_}")
    arguments = "jsonpath={.spec.jobTemplate.spec.template.spec.containers[0].args}"
    deadline = time.monotonic() + 30
    while hash_ not in kubectl("get", "cronjob", "mlflow-retention-purge", "-o", arguments):
        assert time.monotonic() < deadline, "the hash is not passed on"
        time.sleep(0.5)
    assert "3 runs purged, 3 objects, 27 bytes" in job("mlflow-retention-purge", "purge-2")
    assert not any(server.knows(run) or server.files(run) for run in gone)
    assert server.knows(kept)
    assert server.files(kept) == ["data.txt"]
    status = reach("Scheduled")
    assert status["lastSuccessfulTime"] == status["lastRunTime"]

    kubectl("delete", "retention", "purge")
    kubectl("wait", "cronjob/mlflow-retention-purge", "--for=delete", "--timeout=300s")
