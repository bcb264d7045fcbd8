"""W2, the optimiser: its server is started by one command, and its faults are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from mlflow_platform.adapters.mlflow import MlflowApi
from mlflow_platform.local import Stack


def mlplatform(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlflow_platform.cli", *arguments]
    environment = {**os.environ, "MLPLATFORM_DATA": str(stack.folder.root)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_w2_1_a_server_on_postgres_with_s3_artifacts_and_a_health_check(stack: Stack) -> None:
    done = mlplatform(stack, "status", "--json")
    assert done.returncode == 0, done.stderr
    processes = {p["name"]: p["healthy"] for p in json.loads(done.stdout)["processes"]}
    assert processes == {"supervisor": True, "postgres": True, "s3": True, "mlflow": True}
    assert stack.endpoints().database_uri.startswith("postgresql")


def test_w2_9_doctor_checks_server_database_bucket_disk_and_credentials(stack: Stack) -> None:
    done = mlplatform(stack, "doctor", "--json")
    assert done.returncode == 0, done.stdout
    names = " ".join(check["name"] for check in json.loads(done.stdout)["checks"])
    for subject in ("server", "database", "bucket", "disk", "login"):
        assert subject in names, names


def test_w2_8_old_runs_of_an_experiment_are_archived_and_deleted_after_a_dry_run(
    stack: Stack, tmp_path: Path
) -> None:
    where = stack.endpoints()
    api = MlflowApi(where.tracking_uri, where.username, where.password)

    def call(path: str, **body: object) -> dict[str, dict[str, dict[str, str]]]:
        return api.call("POST", f"api/2.0/mlflow/{path}", json=body)

    def there(run: str) -> bool:
        found = call("runs/search", experiment_ids=[experiment], run_view_type="ALL")
        return run in json.dumps(found)

    name = f"optimiser-{time.time_ns()}"
    experiment = str(call("experiments/create", name=name)["experiment_id"])
    old, new = (
        call("runs/create", experiment_id=experiment, start_time=begun)["run"]["info"]["run_id"]
        for begun in (1, int(time.time() * 1000))
    )
    for run in (old, new):
        call("runs/log-metric", run_id=run, key="score", value=0.5, timestamp=1, step=1)
        call("runs/update", run_id=run, status="FINISHED", **({"end_time": 2} if run == old else {}))
    (tmp_path / "archives").mkdir()
    (tmp_path / "policy.yaml").write_text(
        f"""
apiVersion: mlplatform.io/v1alpha1
kind: RetentionPolicy
metadata: {{name: optimiser}}
spec:
  selector: {{experiments: ["{name}"]}}
  rules: {{runs: {{olderThan: 90d}}}}
  quarantine: 0s
  brake: {{maxPercent: 60}}
  archive: {{destination: {tmp_path}/archives}}
"""
    )
    policy, archives = str(tmp_path / "policy.yaml"), str(tmp_path / "archives")
    plan = mlplatform(stack, "retention", "plan", policy, "--json")
    assert plan.returncode == 2, plan.stderr
    assert json.loads(plan.stdout)["quarantined"] == {"run": 1}
    assert there(old), "a dry run"
    for _ in range(2):  # into quarantine, and out of it
        done = mlplatform(stack, "retention", "run", policy, "--json")
        assert done.returncode == 0, done.stdout
    assert not there(old)
    assert there(new)
    listed = json.loads(mlplatform(stack, "archive", "list", archives, "--json").stdout)
    assert [one["counts"]["runs"] for one in listed["archives"]] == [1]
    back = mlplatform(stack, "archive", "restore", archives, "--run", old, "--json")
    assert back.returncode == 0, back.stderr
    found = api.call("GET", "api/2.0/mlflow/runs/get", params={"run_id": old})["run"]
    assert (found["info"]["lifecycle_stage"], found["info"]["end_time"]) == ("active", 2)
    assert [one["value"] for one in found["data"]["metrics"]] == [0.5]
