"""A backup and its drill by the operator's jobs in the cluster, of a platform with runs and artifacts."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from mlflow_platform.adapters.s3 import S3Login, connect
from tests.cluster import clusters
from tests.cluster.release import Release
from tests.cluster.retention_jobs import NEVER

STORE = {
    "accessKeySecretRef": {"name": "mlflow-store", "key": "accessKeyId"},
    "secretKeySecretRef": {"name": "mlflow-store", "key": "secretAccessKey"},
}
SCHEDULE: dict[str, Any] = {
    "apiVersion": "mlplatform.io/v1alpha1",
    "kind": "BackupSchedule",
    "metadata": {"name": "proof"},
    "spec": {
        "schedule": NEVER,
        "destination": {"uri": "s3://backups/proof", "endpoint": "http://mlflow-store:8333", **STORE},
        "encryptionKeySecretRef": {"name": "backup-key", "key": "key"},
        "keep": {"last": 2},
        "drill": {"schedule": NEVER},
    },
}


def backup(node: clusters.Cluster, namespace: str) -> None:
    """A backup into another bucket of the release's store, and a drill of it; both by hand, from CronJobs."""

    def kubectl(*arguments: str, timeout: float = 330) -> str:
        return node.kubectl("-n", namespace, *arguments, timeout=timeout)

    def job(cron_job: str, name: str) -> str:
        """What a job of the CronJob prints, when it has ended well."""
        kubectl("create", "job", f"--from=cronjob/{cron_job}", name)
        deadline = time.monotonic() + 300
        while not (ended := {"Complete", "Failed"} & conditions(name)) and time.monotonic() < deadline:
            time.sleep(0.5)
        said = kubectl("logs", "--selector", f"job-name={name}", "-c", "job", "--tail=-1", "--prefix")
        assert ended == {"Complete"}, f"{said}{kubectl('get', f'job/{name}', '-o', 'yaml')}"
        return said

    def conditions(name: str) -> set[str]:
        types = "jsonpath={.status.conditions[*].type}"
        return set(kubectl("get", f"job/{name}", "-o", types).split())

    def told(*names: str) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while True:
            status: dict[str, Any] = json.loads(kubectl("get", "mlbackup", "proof", "-o", "json"))["status"]
            if set(names) <= set(status):
                return status
            assert time.monotonic() < deadline, status
            time.sleep(0.5)

    keys = Release(node, namespace).store_keys()
    store = kubectl("get", "service", "mlflow-store", "-o", "jsonpath={.spec.clusterIP}")
    s3 = connect(S3Login(f"http://{store}:8333", "us-east-1", *keys), 1)
    s3.create_bucket(Bucket="backups")
    head = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "backup-key"}}
    node.apply({**head, "stringData": {"key": secrets.token_hex(32)}}, namespace=namespace)
    node.apply(SCHEDULE, namespace=namespace)
    kubectl("wait", "mlbackup/proof", "--for=condition=Ready", "--timeout=300s")

    assert " objects copied in " in job("mlflow-backup-proof", "backup-1")
    found = [o["Key"] for o in s3.list_objects_v2(Bucket="backups", Prefix="proof/")["Contents"]]
    assert "proof/source.json" in found
    said = job("mlflow-drill-proof", "drill-1")
    assert " rows restored; " in said
    assert said.count("noticed: a changed byte of ") >= 2
    status = told("lastSuccessfulTime", "lastSuccessfulDrillTime")
    assert status["lastSuccessfulTime"] == status["lastRunTime"]
    assert (status["cronJob"], status["drillCronJob"]) == ("mlflow-backup-proof", "mlflow-drill-proof")
    assert "nextRunTime" not in status, "the 31st of February"

    kubectl("delete", "mlbackup", "proof")
    for name in ("mlflow-backup-proof", "mlflow-drill-proof"):
        kubectl("wait", f"cronjob/{name}", "--for=delete", "--timeout=300s")
