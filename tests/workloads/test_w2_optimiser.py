"""W2, the optimiser: its server is started by one command, and its faults are named."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from mlflow_platform.adapters.mlflow import MlflowApi
from mlflow_platform.client import MLflowConfig
from mlflow_platform.errors import BadInput
from mlflow_platform.local import Stack
from tests.client.programs import Logging
from tests.faults.proxy import Proxy
from tests.workloads.ran import ROOT, Workload, Workloads

pytest_plugins = ("tests.workloads.fixtures",)


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


_COMPUTED = {
    "baseline_success_rate": 0.2,
    "baseline_avg_cost": 0.02,
    "baseline_avg_latency_ms": 120.0,
    "baseline_quality_score": 0.5,
    "optimized_success_rate": 0.8,
    "optimized_avg_cost": 0.015,
    "optimized_avg_latency_ms": 90.0,
    "optimized_quality_score": 0.75,
    "success_rate_improvement": 0.6,
    "cost_reduction": 0.005,
    "latency_reduction_ms": 30.0,
    "quality_improvement": 0.25,
    "improvement_percentage": 300.0,
    "iterations": 7.0,
    # 12 of the 20 examples changed, all for the better: 2 * 0.5 ** 12.
    "statistical_significance": 2 * 0.5**12,
}


@pytest.fixture(scope="module")
def optimised(workloads: Workloads) -> Workload:
    return workloads.run("optimiser.py", "read")


def best(optimised: Workload) -> Any:
    return optimised.client.get_run(optimised.printed["run"])


def test_w2_2_the_configuration_is_checked_and_honours_its_variables(optimised: Workload) -> None:
    variables = {
        "MLFLOW_TRACKING_URI": "https://mlflow.example.com",
        "MLFLOW_EXPERIMENT_NAME": "tuning",
        "MLFLOW_ARTIFACT_LOCATION": "s3://bucket/tuning",
        "MLFLOW_REGISTRY_URI": "https://registry.example.com",
        "MLFLOW_TRACKING_USERNAME": "ada",
        "MLFLOW_TRACKING_PASSWORD": "a secret",
    }
    config = MLflowConfig.from_environment(variables, experiment_name="mine")
    assert (config.tracking_uri, config.uri) == (
        "https://mlflow.example.com",
        "durable+https://mlflow.example.com",
    )
    assert config.experiment_name == "mine"
    assert config.artifact_location == "s3://bucket/tuning"
    assert config.registry_uri == "https://registry.example.com"
    assert config.variables() == {k: v for k, v in variables.items() if "USERNAME" in k or "PASSWORD" in k}
    assert "a secret" not in repr(config)
    # Honoured by a program on the real server: its experiment is the variable's, its login got it in.
    assert best(optimised).info.experiment_id == optimised.experiment_id


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tracking_uri": "htp://x"}, "tracking_uri has the unknown scheme 'htp'"),
        ({"tracking_uri": "http://"}, "tracking_uri names no host"),
        ({"tracking_uri": " "}, "tracking_uri is empty"),
        ({"registry_uri": "a b"}, "registry_uri is empty or has blanks"),
        ({"artifact_location": "s4://x"}, "artifact_location has the unknown scheme 's4'"),
        ({"experiment_name": ""}, "experiment_name is not a name"),
        ({"experiment_name": "x" * 501}, "experiment_name is not a name"),
        ({"password": "a secret"}, "username is missing"),
    ],
)
def test_w2_2_a_mistake_is_one_message_that_names_the_variable(settings: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput, match=re.escape(said)) as caught:
        MLflowConfig(**settings)
    assert "a secret" not in str(caught.value)
    assert "MLFLOW_" in str(caught.value)


def test_w2_2_an_artifact_location_is_where_the_experiment_keeps_its_artifacts(
    workloads: Workloads, tmp_path: Path
) -> None:
    ran = workloads.run("optimiser.py", MLFLOW_ARTIFACT_LOCATION=str(tmp_path / "kept"))
    experiment = ran.client.get_experiment(ran.experiment_id)
    assert experiment.artifact_location == (tmp_path / "kept").as_uri()


def test_w2_3_metrics_have_their_exact_names_and_are_computed(optimised: Workload) -> None:
    run = best(optimised)
    logged = dict(run.data.metrics)
    assert logged.pop("duration_seconds") > 0
    assert logged == pytest.approx(_COMPUTED)
    assert optimised.printed["metrics"] == pytest.approx(_COMPUTED)
    assert run.data.tags["significance_test"] == "McNemar's exact test"


def test_w2_4_artifacts_of_an_optimisation(optimised: Workload) -> None:
    run = best(optimised)
    listed = {
        f.path for folder in ("", "models") for f in optimised.client.list_artifacts(run.info.run_id, folder)
    }
    assert listed == {
        "training_data.json",
        "key_improvements.txt",
        "algorithm_parameters.json",
        "models",
        "models/best.pkl",
        "models/best_metadata.json",
    }
    assert optimised.artifact(run, "key_improvements.txt") == "shorter prompt\ntwo demonstrations\n"
    assert json.loads(optimised.artifact(run, "training_data.json")) == [{"question": "q", "answer": "a"}]
    about = json.loads(optimised.artifact(run, "models/best_metadata.json"))
    assert about["score"] == 0.8
    assert len(about["pickle"]["sha256"]) == 64


def test_w2_4_a_pickle_is_opened_only_as_it_was_saved(optimised: Workload) -> None:
    assert "opened" not in optimised.output.splitlines(), "the exchanged pickle ran"
    refused = [line for line in optimised.output.splitlines() if line.startswith("refused: ")]
    assert len(refused) == 3
    assert "not that of best_metadata.json; it is not opened" in refused[0]
    # A model that cannot be pickled is one warning, and the program went on.
    assert optimised.printed["failures"] == 1
    assert "not logged (save_model)" in optimised.warnings


def test_w2_5_the_best_run_and_searches_are_awaited(optimised: Workload) -> None:
    assert optimised.printed["run"], "the program compared what it found with what it logged"
    assert "refused filter: " in optimised.output


_REMOTE = """
from pathlib import Path
from mlflow_platform.client import MLflowTracker
Path("demonstrations.json").write_text("[1, 2, 3]")
tracker = MLflowTracker()
with tracker.start_run("remote") as run:
    tracker.log_metrics({"quality_score": 0.75})
    tracker.log_artifact("demonstrations.json", "models")
print(run.run_id)
"""


def test_w2_6_a_remote_server_over_tls_with_a_login_keeps_artifacts_in_s3(
    stack: Stack, workloads: Workloads, tmp_path: Path
) -> None:
    where = stack.endpoints()
    host, _, port = where.tracking_uri.removeprefix("http://").rpartition(":")
    authority, certificate, key = (
        next(stack.folder.root.rglob(name)) for name in ("ca.crt", "node.crt", "node.key")
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    listener = tls.wrap_socket(
        socket.create_server(("127.0.0.1", 0)), server_side=True, do_handshake_on_connect=False
    )
    login = {k: v for k, v in where.environment().items() if k != "MLFLOW_TRACKING_URI"}
    trusted = {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(authority)}
    with Proxy((host, int(port)), _listener=listener) as proxy:
        uri = proxy.uri.replace("http://", "https://")
        # Who does not trust the authority sends nothing, and whose login is wrong is told so.
        stranger = Logging(uri, {}, tmp_path / "stranger", login)
        stranger.run(_REMOTE, MLPLATFORM_OFFLINE="1")
        untrusting = stranger.sync(timeout=1)
        assert untrusting.returncode == 1
        assert "certificate verify failed" in untrusting.stdout + untrusting.stderr
        assert proxy.seen == []
        wrong = Logging(uri, trusted, tmp_path / "wrong", {**login, "MLFLOW_TRACKING_PASSWORD": "x" * 20})
        wrong.run(_REMOTE, MLPLATFORM_OFFLINE="1")
        refused = wrong.sync(timeout=30)
        assert refused.returncode == 1
        assert "the login is refused" in refused.stdout + refused.stderr
        logging = Logging(uri, trusted, tmp_path / "right", login)
        workloads.spools.append(logging)
        run = logging.run(_REMOTE)
        assert logging.sync().returncode == 0
        assert proxy.count("runs/create") == 1
    found = workloads.client.get_run(run)
    assert (found.info.run_name, found.data.metrics["quality_score"]) == ("remote", 0.75)
    store = boto3.client(
        "s3",
        endpoint_url=where.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=where.s3_access_key,
        aws_secret_access_key=where.s3_secret_key,
    )
    pages = store.get_paginator("list_objects_v2").paginate(Bucket=where.s3_bucket)
    keys = [o["Key"] for page in pages for o in page.get("Contents", ()) if run in o["Key"]]
    assert [k.partition(f"{run}/")[2] for k in keys] == ["artifacts/models/demonstrations.json"]
    assert store.get_object(Bucket=where.s3_bucket, Key=keys[0])["Body"].read() == b"[1, 2, 3]"


def test_w2_6_in_kubernetes_credentials_come_from_secrets() -> None:
    file = ROOT / "manifests" / "production" / "mlflow.yaml"
    found: dict[str, Any] = {}

    def look(value: Any) -> None:
        for one in value.values() if isinstance(value, dict) else value:
            if isinstance(one, dict) and re.search(r"PASSWORD|PASSPHRASE|SECRET", str(one.get("name"))):
                found.setdefault(one["name"], []).append(one)
            if isinstance(one, dict | list):
                look(one)

    documents = [d for d in yaml.safe_load_all(file.read_text()) if d]
    assert not [d["metadata"]["name"] for d in documents if d["kind"] == "Secret"]
    look([d for d in documents if d["kind"] in ("Deployment", "Job", "CronJob")])
    assert {"MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY", "PGPASSWORD"} <= found.keys()
    for name, uses in found.items():
        for use in uses:
            assert "value" not in use, name
            assert use["valueFrom"].keys() == {"secretKeyRef"}, name


def test_w2_7_names_by_pattern_and_the_same_tags_on_every_run(optimised: Workload) -> None:
    runs = optimised.runs()
    assert len(runs) == 3
    for run in runs:
        assert re.fullmatch(r"prompt-(it-s-42|worse|tampered)-\d{8}T\d{6}\.\d{6}Z", run.info.run_name)
        tags = run.data.tags
        assert (tags["target_type"], tags["environment"], tags["version"]) == ("prompt", "test", "1.2")


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
