"""W2, the optimiser: its server is started by one command, and its faults are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys

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
