"""Which CronJob a document asks for, and what is said of its jobs: decided without a cluster."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.chart import Release, find_chart
from mlflow_platform.errors import BadInput
from mlflow_platform.kinds.registry import KINDS
from mlflow_platform.model import DOCUMENTS, crd, cron
from mlflow_platform.operator.conditions import Outcome, Reason
from mlflow_platform.operator.entries import Entry, read
from mlflow_platform.operator.schedules import (
    MAX_NAME,
    SCHEDULED,
    JobTemplate,
    after_jobs,
    job_name,
    pod_of,
    replacement,
    same,
    wanted,
)

Json = dict[str, Any]
OWN = "http://mlflow.ops.svc:5000"
RULES: Json = {"runs": {"olderThan": "90d"}}
DATABASE: Json = {"uriSecretRef": {"name": "db", "key": "uri"}}
ARTIFACTS: Json = {
    "destination": "s3://elsewhere",
    "accessKeySecretRef": {"name": "keys", "key": "id"},
    "secretKeySecretRef": {"name": "keys", "key": "secret"},
}


def test_every_kind_is_carried_out_one_way() -> None:
    assert (
        {"TrackingServer", *KINDS, *SCHEDULED} == set(crd.RECONCILED) == set(DOCUMENTS) - {"BackupSchedule"}
    )
    assert not set(KINDS) & set(SCHEDULED)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> JobTemplate:
    """As the chart renders it."""
    chart = find_chart()
    found = chart.render(chart.values(settings=["operator.enabled=true"]), Release("mlflow", "ops"))
    (config,) = (m.object for m in found if (m.kind, m.name) == ("ConfigMap", "mlflow-operator"))
    path = tmp_path_factory.mktemp("template") / "jobs.yaml"
    path.write_text(config["data"]["jobs.yaml"], "utf-8")
    return JobTemplate.read(path)


def entry(kind: str, name: str, spec: Json, namespace: str = "ops", **metadata: Any) -> Entry:
    head = {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "generation": 1, **metadata}
    if kind != "TrackingServer":
        head["namespace"] = namespace
    return read(kind, {"metadata": head, "spec": spec})


def policy(namespace: str = "ops", **spec: Any) -> Entry:
    return entry("RetentionPolicy", "nightly", {"schedule": "@daily", "rules": RULES, **spec}, namespace)


def server(name: str = "default", uri: str = OWN, **spec: Any) -> Entry:
    return entry("TrackingServer", name, {"trackingUri": uri, **spec})


def test_what_is_not_to_run_has_no_cron_job_and_says_why(template: JobTemplate) -> None:
    def reason(one: Entry, of: Entry | None = None, by: JobTemplate | None = template) -> Reason:
        asked = wanted(one, of or server(), by, "ops")
        assert not asked.objects
        return asked.outcome.reason

    unscheduled = entry("RetentionPolicy", "nightly", {"rules": RULES})
    assert reason(unscheduled) == Reason.NOT_SCHEDULED
    assert reason(policy(schedule="0 0 0 * *")) == Reason.INVALID
    assert reason(policy(namespace="team-a")) == Reason.NOT_ALLOWED
    assert reason(policy(), by=None) == Reason.NO_JOBS
    assert wanted(policy(server="other"), None, template, "ops").outcome.reason == Reason.SERVER_NOT_FOUND
    assert reason(policy(server="other"), server("other")) == Reason.WAITING
    assert reason(policy(server="other"), server("other", database=DATABASE)) == Reason.WAITING
    assert reason(policy(), server(brakes={"maxLossPercent": 101})) == Reason.WAITING


def test_the_releases_data_serve_its_own_server_alone(template: JobTemplate) -> None:
    """A policy about a server elsewhere must never be carried out on the database that is at hand."""
    moved = wanted(policy(), server(uri="http://elsewhere:5000"), template, "ops")
    assert moved.outcome.reason == Reason.WAITING
    assert not moved.objects
    assert "spec.database" in moved.outcome.message
    own = wanted(policy(), server(uri=f"{OWN}/"), template, "ops").objects[1]
    names = {e["name"] for e in pod_of(own)["containers"][0]["env"]}
    assert {"PGHOST", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "MLFLOW_ARTIFACTS_DESTINATION"} <= names
    assert "--secrets" not in pod_of(own)["containers"][0]["args"]
    for name in ("other", "default"):
        of = server(name, "http://elsewhere:5000", database=DATABASE, artifacts=ARTIFACTS)
        config, other = wanted(policy(server=name), of, template, "ops").objects
        names = {e["name"] for e in pod_of(other)["containers"][0]["env"]}
        assert names == {"HOME"}
        documents = list(yaml.safe_load_all(config["data"]["documents.yaml"]))
        assert [d["kind"] for d in documents] == ["RetentionPolicy", "TrackingServer"]
        (volume,) = (v for v in pod_of(other)["volumes"] if v["name"] == "secrets")
        assert volume["projected"]["sources"] == [
            {"secret": {"name": "db", "items": [{"key": "uri", "path": "db/uri"}]}},
            {
                "secret": {
                    "name": "keys",
                    "items": [
                        {"key": "id", "path": "keys/id"},
                        {"key": "secret", "path": "keys/secret"},
                    ],
                }
            },
        ]


def test_a_policy_says_when_and_what(template: JobTemplate) -> None:
    def arguments(one: Entry) -> list[str]:
        found: list[str] = pod_of(wanted(one, server(), template, "ops").objects[1])["containers"][0]["args"]
        return found

    about = ["/etc/mlplatform/documents/documents.yaml", "--policy", "nightly", "--server", "default"]
    assert arguments(policy()) == ["retention", "run", *about, "--wait", "3600"]
    assert arguments(policy(dryRun=True)) == ["retention", "plan", *about, "--no-exit-code"]
    annotations = {"mlplatform.io/allow-destructive-plan": "0a1b2c"}
    released = entry(
        "RetentionPolicy", "nightly", {"schedule": "@daily", "rules": RULES}, annotations=annotations
    )
    assert arguments(released)[-2:] == ["--allow-destructive", "0a1b2c"]
    asked = wanted(policy(suspend=True, schedule="0 2 * * 1-5"), server(), template, "ops")
    assert asked.outcome == Outcome(Reason.SUSPENDED)
    spec = asked.objects[1]["spec"]
    assert (spec["schedule"], spec["suspend"], spec["timeZone"]) == ("0 2 * * 1-5", True, "Etc/UTC")
    assert asked == wanted(policy(suspend=True, schedule="0 2 * * 1-5"), server(), template, "ops")


@given(st.text("ab-.", min_size=1, max_size=40), st.text("ab-.", min_size=1, max_size=253))
def test_names_of_cron_jobs_fit_and_differ(prefix: str, name: str) -> None:
    prefix, name = f"r{prefix.strip('-.')}", f"n{name.strip('-.')}n"
    found = job_name(prefix, "retention", name)
    assert len(found) <= MAX_NAME
    assert found[-1].isalnum()
    assert found != job_name(prefix, "retention", f"{name}n")


def job(name: str, when: str, type_: str = "", **condition: str) -> Json:
    found: Json = {"metadata": {"name": name, "ownerReferences": [{"uid": "u"}]}, "status": {}}
    if type_:
        found["status"]["conditions"] = [
            {"type": "SuccessCriteriaMet", "status": "True", "lastTransitionTime": when},
            {"type": type_, "status": "True", "lastTransitionTime": when, **condition},
        ]
    return found


def test_the_last_job_that_ended_counts() -> None:
    cron_job = {"metadata": {"name": "c", "namespace": "ops", "uid": "u"}, "status": {}}
    outcome = Outcome(Reason.SCHEDULED)
    first, second = "2026-01-01T02:00:00Z", "2026-01-02T02:00:00Z"
    well, running = job("a", first, "Complete"), job("b", second)
    failed = job("b", second, "Failed", reason="BackoffLimitExceeded", message="has reached the limit")
    brake = "Container job for pod ops/b-x failed with exit code 3 matching FailJob rule at index 0"
    braked = job("b", second, "Failed", reason="PodFailurePolicy", message=brake)
    other = {**failed, "metadata": {**failed["metadata"], "ownerReferences": [{"uid": "another"}]}}

    assert after_jobs(outcome, cron_job, [])[0] == outcome
    said, extra = after_jobs(outcome, cron_job, [running, well, other])
    assert said == outcome
    assert extra == {"cronJob": "c", "lastRunTime": first, "lastSuccessfulTime": first}
    said, extra = after_jobs(outcome, cron_job, [failed, well])
    assert said.reason == Reason.JOB_FAILED
    assert (said.ready, said.stalled) == (False, False)
    assert "kubectl -n ops logs job/b" in said.message
    assert "BackoffLimitExceeded: has reached the limit" in said.message
    assert extra == {"cronJob": "c", "lastRunTime": second, "lastSuccessfulTime": first}
    said, _ = after_jobs(outcome, cron_job, [braked, well])
    assert said.reason == Reason.BRAKE_STOPPED
    assert said.stalled
    assert "create job --from=cronjob/c" in said.message
    thirty = job("b", second, "Failed", reason="PodFailurePolicy", message=brake.replace("code 3", "code 30"))
    assert after_jobs(outcome, cron_job, [thirty])[0].reason == Reason.JOB_FAILED
    known = {**cron_job, "status": {"lastSuccessfulTime": second}}
    assert after_jobs(outcome, known, [well])[1]["lastSuccessfulTime"] == second


def test_a_replacement_keeps_what_others_noted_and_nothing_else() -> None:
    mine: Json = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "c", "labels": {"a": "1"}, "annotations": {}, "ownerReferences": [{"uid": "u"}]},
        "spec": {"suspend": False},
    }
    live: Json = {
        "metadata": {
            "name": "c",
            "uid": "x",
            "resourceVersion": "7",
            "managedFields": [{}],
            "labels": {"a": "2", "b": "2"},
            "finalizers": ["f"],
        },
        "spec": {"suspend": True, "more": 1},
    }
    new = replacement(mine, live)
    assert new["spec"] == {"suspend": False}
    assert new["metadata"]["labels"] == {"a": "1", "b": "2"}
    assert (new["metadata"]["resourceVersion"], new["metadata"]["finalizers"]) == ("7", ["f"])
    assert "managedFields" not in new["metadata"]
    assert same(new, {**new, "metadata": {**new["metadata"], "resourceVersion": "8"}})
    assert not same(new, live)


def test_a_template_that_is_none_is_said_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    for text in ("", "[]", "{", json.dumps({"prefix": "x", "trackingUri": "u", "env": [], "cronJob": {}})):
        path.write_text(text, "utf-8")
        with pytest.raises(BadInput, match=r"is no template of jobs"):
            JobTemplate.read(path)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("0 2 * * *", ""),
        ("*/15 0-6,22 1-7 JAN-mar Sun,1-5", ""),
        ("5/20 ? * * ?", ""),
        ("@hourly", ""),
        ("60 * * * *", "'60' is no minute: 0 to 59"),
        ("* * 0 * *", "'0' is no day of the month: 1 to 31"),
        ("* * * abc *", "'abc' is no month: 1 to 12 or jan to dec"),
        ("* * * * 7", "'7' is no day of the week: 0 to 6 or sun to sat"),
        ("*/0 * * * *", "the step of minute in '*/0' is no number above 0"),
        ("* 5-3 * * *", "'5-3' ends before it begins"),
        ("* 5, * * *", "'' is no hour"),
        ("* * * *", "there are 4 fields"),
    ],
)
def test_schedules(schedule: str, said: str) -> None:
    found = cron.mistake(schedule)
    assert re.match(re.escape(said), found)
    assert bool(found) == bool(said)
