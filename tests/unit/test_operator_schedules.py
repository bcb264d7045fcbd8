"""Which CronJob a document asks for, and what is said of its jobs: decided without a cluster."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
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
    JobTemplate,
    after_jobs,
    job_name,
    pod_of,
    replacement,
    same,
    wanted,
)
from mlflow_platform.operator.tasks import DRILL, RUN, TASKS, TOLD

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
    assert {"TrackingServer", *KINDS, *TASKS} == set(DOCUMENTS)
    assert not set(KINDS) & set(TASKS)
    assert set(TOLD) == set(TASKS)


def test_the_definitions_have_what_is_told_of_tasks() -> None:
    for kind, fields in TOLD.items():
        (version,) = crd.definition(kind)["spec"]["versions"]
        status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
        assert {name for told in fields for name in told.nothing} <= set(status)


def rendered(tmp_path_factory: pytest.TempPathFactory, *settings: str) -> JobTemplate:
    """As the chart renders it."""
    chart = find_chart()
    values = chart.values(settings=["operator.enabled=true", *settings])
    found = chart.render(values, Release("mlflow", "ops"))
    (config,) = (m.object for m in found if (m.kind, m.name) == ("ConfigMap", "mlflow-operator"))
    path = tmp_path_factory.mktemp("template") / "jobs.yaml"
    path.write_text(config["data"]["jobs.yaml"], "utf-8")
    return JobTemplate.read(path)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> JobTemplate:
    return rendered(tmp_path_factory)


def entry(kind: str, name: str, spec: Json, namespace: str = "ops", **metadata: Any) -> Entry:
    head = {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "generation": 1, **metadata}
    if kind != "TrackingServer":
        head["namespace"] = namespace
    return read(kind, {"metadata": head, "spec": spec})


def policy(namespace: str = "ops", **spec: Any) -> Entry:
    return entry("RetentionPolicy", "nightly", {"schedule": "@daily", "rules": RULES, **spec}, namespace)


def server(name: str = "default", uri: str = OWN, **spec: Any) -> Entry:
    return entry("TrackingServer", name, {"trackingUri": uri, **spec})


def backup(**spec: Any) -> Entry:
    destination = {
        "uri": "s3://backups/x",
        "accessKeySecretRef": {"name": "store", "key": "id"},
        "secretKeySecretRef": {"name": "store", "key": "secret"},
    }
    return entry("BackupSchedule", "nightly", {"schedule": "@daily", "destination": destination, **spec})


def made(one: Entry, of: Entry, by: JobTemplate) -> list[Json]:
    """The ConfigMap, then the CronJobs."""
    asked = wanted(one, of, by, "ops")
    assert asked.config is not None
    return [asked.config, *(cron_job for _, cron_job in asked.cron_jobs)]


def files(cron_job: Json) -> set[str]:
    """Those that the Secrets become in a pod."""
    volumes = [v for v in pod_of(cron_job)["volumes"] if v["name"] == "secrets"]
    sources = [source["secret"] for v in volumes for source in v["projected"]["sources"]]
    return {item["path"] for secret in sources for item in secret["items"]}


def variables(cron_job: Json) -> set[str]:
    return {one["name"] for one in pod_of(cron_job)["containers"][0]["env"]}


def test_what_is_not_to_run_has_no_cron_job_and_says_why(template: JobTemplate) -> None:
    def reason(one: Entry, of: Entry | None = None, by: JobTemplate | None = template) -> Reason:
        asked = wanted(one, of or server(), by, "ops")
        assert not asked.names
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
    assert not moved.names
    assert "spec.database" in moved.outcome.message
    _, own = made(policy(), server(uri=f"{OWN}/"), template)
    names = {e["name"] for e in pod_of(own)["containers"][0]["env"]}
    assert {"PGHOST", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "MLFLOW_ARTIFACTS_DESTINATION"} <= names
    assert not {n for n in names if "KEK" in n or "WEBHOOK" in n}, (
        "retention has no use for MLflow's own keys"
    )
    assert "--secrets" not in pod_of(own)["containers"][0]["args"]
    for name in ("other", "default"):
        of = server(name, "http://elsewhere:5000", database=DATABASE, artifacts=ARTIFACTS)
        config, other = made(policy(server=name), of, template)
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
        found: list[str] = pod_of(made(one, server(), template)[1])["containers"][0]["args"]
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
    ((_, cron_job),) = asked.cron_jobs
    spec = cron_job["spec"]
    assert (spec["schedule"], spec["suspend"], spec["timeZone"]) == ("0 2 * * 1-5", True, "Etc/UTC")
    assert asked == wanted(policy(suspend=True, schedule="0 2 * * 1-5"), server(), template, "ops")


def test_a_backup_gets_the_servers_data_and_its_drill_the_backups_alone(template: JobTemplate) -> None:
    key = {"name": "key", "key": "key"}
    one = backup(encryptionKeySecretRef=key, drill={"schedule": "@weekly"})
    config, create, drill = made(one, server(), template)
    assert [c["metadata"]["name"] for c in (config, create, drill)] == [
        *["mlflow-backup-nightly"] * 2,
        "mlflow-drill-nightly",
    ]
    about = ["-f", "/etc/mlplatform/documents/documents.yaml", "--schedule", "nightly"]
    secrets = ["--secrets", "/etc/mlplatform/secrets"]
    assert pod_of(create)["containers"][0]["args"] == ["backup", "create", *about, *secrets]
    scratch = ["--database", "MLPLATFORM_SCRATCH_DATABASE_URI"]
    assert pod_of(drill)["containers"][0]["args"] == ["backup", "drill", *about, *scratch, *secrets]
    assert (create["spec"]["schedule"], drill["spec"]["schedule"]) == ("@daily", "@weekly")
    assert files(create) == files(drill) == {"store/id", "store/secret", "key/key"}
    assert {"PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "MLFLOW_CRYPTO_KEK_PASSPHRASE"} <= variables(create)
    assert variables(drill) == {"HOME", "MLPLATFORM_SCRATCH_DATABASE_URI"}
    (sidecar,) = pod_of(drill)["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert {v["name"] for v in sidecar["volumeMounts"]} <= {v["name"] for v in pod_of(drill)["volumes"]}
    assert "initContainers" not in pod_of(create)
    for cron_job in (create, drill):
        (volume,) = (v for v in pod_of(cron_job)["volumes"] if v["name"] == "documents")
        assert volume["configMap"]["name"] == config["metadata"]["name"]


def test_a_backup_of_another_server_and_a_drill_into_a_database(template: JobTemplate) -> None:
    elsewhere = server(
        "far",
        "https://far:5000",
        database=DATABASE,
        artifacts=ARTIFACTS,
        caSecretRef={"name": "ca", "key": "ca.crt"},
    )
    scratch = {"schedule": "@weekly", "databaseUriSecretRef": {"name": "scratch", "key": "uri"}}
    config, create, drill = made(backup(server="far", drill=scratch), elsewhere, template)
    documents = {d["kind"]: d for d in yaml.safe_load_all(config["data"]["documents.yaml"])}
    assert documents["TrackingServer"]["spec"]["caSecretRef"] == {"name": "ca", "key": "ca.crt"}
    assert variables(create) == variables(drill) == {"HOME"}
    assert files(create) == {"store/id", "store/secret", "db/uri", "keys/id", "keys/secret", "ca/ca.crt"}
    assert files(drill) == {"store/id", "store/secret", "scratch/uri"}
    assert "initContainers" not in pod_of(drill)
    assert "--database" not in pod_of(drill)["containers"][0]["args"]


def test_backups_run_as_far_as_they_have_a_time(template: JobTemplate) -> None:
    never = entry("BackupSchedule", "nightly", {"destination": {"uri": "s3://b/x"}})
    assert wanted(never, server(), template, "ops").outcome.reason == Reason.NOT_SCHEDULED
    drill = {"destination": {"uri": "/backups"}, "drill": {"schedule": "@weekly"}}
    only = wanted(entry("BackupSchedule", "nightly", drill), server(), template, "ops")
    assert [told for told, _ in only.cron_jobs] == [DRILL]
    wrong = backup(drill={"schedule": "0 26 * * *"})
    asked = wanted(wrong, server(), template, "ops")
    assert asked.outcome.reason == Reason.INVALID
    assert "drill.schedule: this is no schedule: '26' is no hour" in asked.outcome.message
    tenants = entry("BackupSchedule", "nightly", {"destination": {"uri": "s3://b/x"}}, "team-a")
    assert wanted(tenants, server(), template, "ops").outcome.reason == Reason.NOT_ALLOWED


def test_a_drill_that_no_login_leads_to_is_refused_and_backups_go_on(
    template: JobTemplate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It gets none of the keys of the artifacts; where those need none, it has the pod's identity."""
    spec: Json = {"destination": {"uri": "s3://b/x"}, "drill": {"schedule": "@weekly"}}
    both = entry("BackupSchedule", "nightly", {"schedule": "@daily", **spec})
    asked = wanted(both, server(), template, "ops")
    assert asked.outcome.reason == Reason.INVALID
    assert "the drill has no login for s3://b/x" in asked.outcome.message
    assert [told for told, _ in asked.cron_jobs] == [RUN]
    assert wanted(entry("BackupSchedule", "nightly", spec), server(), template, "ops").names == set()

    far = entry("BackupSchedule", "nightly", {**spec, "server": "far"})
    for artifacts, reason in ((ARTIFACTS, Reason.INVALID), ({"destination": "s3://x"}, Reason.SCHEDULED)):
        of = server("far", "https://far:5000", database=DATABASE, artifacts=artifacts)
        assert wanted(far, of, template, "ops").outcome.reason == reason
    settings = ("store.mode=external", "store.external.credentials=identity")
    by_identity = rendered(tmp_path_factory, *settings)
    assert wanted(both, server(), by_identity, "ops").outcome.reason == Reason.SCHEDULED


def test_a_policy_archives_with_secrets_of_its_own(template: JobTemplate) -> None:
    archive = {
        "destination": "s3://archive/x",
        "endpoint": "https://archive.example.com",
        "accessKeySecretRef": {"name": "archive", "key": "id"},
        "secretKeySecretRef": {"name": "archive", "key": "secret"},
    }
    _, own = made(policy(archive=archive), server(), template)
    assert files(own) == {"archive/id", "archive/secret"}
    assert "PGPASSWORD" in variables(own)
    assert pod_of(own)["containers"][0]["args"][-2:] == ["--secrets", "/etc/mlplatform/secrets"]
    of = server("far", "https://far", database=DATABASE, artifacts=ARTIFACTS)
    _, other = made(policy(server="far", archive=archive), of, template)
    assert files(other) == {"archive/id", "archive/secret", "db/uri", "keys/id", "keys/secret"}


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
    cron_job: Json = {"metadata": {"name": "c", "namespace": "ops", "uid": "u"}, "status": {}}
    cron_job["spec"] = {"schedule": "0 2 * * *", "suspend": False}
    now = datetime(2026, 1, 2, 3, tzinfo=UTC)
    following = {"nextRunTime": "2026-01-03T02:00:00Z"}

    def after(cron_job: Json, jobs: list[Json]) -> tuple[Outcome, Json]:
        return after_jobs(outcome, RUN, cron_job, jobs, now)

    outcome = Outcome(Reason.SCHEDULED)
    first, second = "2026-01-01T02:00:00Z", "2026-01-02T02:00:00Z"
    well, running = job("a", first, "Complete"), job("b", second)
    failed = job("b", second, "Failed", reason="BackoffLimitExceeded", message="has reached the limit")
    brake = "Container job for pod ops/b-x failed with exit code 3 matching FailJob rule at index 0"
    braked = job("b", second, "Failed", reason="PodFailurePolicy", message=brake)
    other = {**failed, "metadata": {**failed["metadata"], "ownerReferences": [{"uid": "another"}]}}

    assert after(cron_job, [])[0] == outcome
    said, extra = after(cron_job, [running, well, other])
    assert said == outcome
    assert extra == {"cronJob": "c", "lastRunTime": first, "lastSuccessfulTime": first, **following}
    said, extra = after(cron_job, [failed, well])
    assert said.reason == Reason.JOB_FAILED
    assert (said.ready, said.stalled) == (False, False)
    assert "kubectl -n ops logs job/b" in said.message
    assert "BackoffLimitExceeded: has reached the limit" in said.message
    assert extra == {"cronJob": "c", "lastRunTime": second, "lastSuccessfulTime": first, **following}
    said, _ = after(cron_job, [braked, well])
    assert said.reason == Reason.BRAKE_STOPPED
    assert said.stalled
    assert "create job --from=cronjob/c" in said.message
    thirty = job("b", second, "Failed", reason="PodFailurePolicy", message=brake.replace("code 3", "code 30"))
    assert after(cron_job, [thirty])[0].reason == Reason.JOB_FAILED
    known = {**cron_job, "status": {"lastSuccessfulTime": second}}
    assert after(known, [well])[1]["lastSuccessfulTime"] == second
    suspended = {**cron_job, "spec": {**cron_job["spec"], "suspend": True}}
    assert after(suspended, [])[1]["nextRunTime"] is None
    assert after_jobs(outcome, DRILL, cron_job, [well], now)[1] == {
        "drillCronJob": "c",
        "lastDrillTime": first,
        "lastSuccessfulDrillTime": first,
        "nextDrillTime": "2026-01-03T02:00:00Z",
    }


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
            "ownerReferences": [{"uid": "another"}],
        },
        "spec": {"suspend": True, "more": 1},
    }
    new = replacement(mine, live)
    assert new["spec"] == {"suspend": False}
    assert new["metadata"]["labels"] == {"a": "1", "b": "2"}
    assert (new["metadata"]["resourceVersion"], new["metadata"]["finalizers"]) == ("7", ["f"])
    assert "managedFields" not in new["metadata"]
    assert new["metadata"]["ownerReferences"] == [{"uid": "u"}]
    assert same(new, {**new, "metadata": {**new["metadata"], "resourceVersion": "8"}})
    assert not same(new, live)


def test_a_template_that_is_none_is_said_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    for text in (
        "",
        "[]",
        "{",
        json.dumps({"prefix": "x", "trackingUri": "u", "env": [], "keys": [], "scratch": {}, "cronJob": {}}),
    ):
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


#: 2026-02-27 is a Friday.
NOW = datetime(2026, 2, 27, 23, 58, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "when"),
    [
        ("* * * * *", "2026-02-27T23:59"),
        ("58 23 * * *", "2026-02-28T23:58"),
        ("@hourly", "2026-02-28T00:00"),
        ("@weekly", "2026-03-01T00:00"),
        ("*/15 9-17/4 * * mon-fri", "2026-03-02T09:00"),
        ("0 0 29 feb ?", "2028-02-29T00:00"),
        ("5/20 * * * *", "2026-02-28T00:05"),
        # Either of two days; with a star among them both, and a star with a step is none.
        ("0 0 15 * 1", "2026-03-02T00:00"),
        ("0 0 */2 * 1", "2026-03-01T00:00"),
        ("0 0 */1 * 1", "2026-03-02T00:00"),
        ("0 0 31 2 *", None),
    ],
)
def test_when_a_schedule_comes_next(schedule: str, when: str | None) -> None:
    assert not cron.mistake(schedule)
    found = cron.following(schedule, NOW)
    assert (found and found.strftime("%Y-%m-%dT%H:%M")) == when


PART = st.sampled_from(["*", "?", "*/2", "1", "2", "1-3", "2/2", "1,3", "5"])


@given(st.lists(PART, min_size=5, max_size=5).map(" ".join), st.integers(0, 400_000))
def test_what_comes_next_is_the_first_minute_that_fits(schedule: str, minutes: int) -> None:
    """Against the rule itself, minute by minute, as far as a week from there."""
    now = NOW + timedelta(minutes=minutes)

    def among(text: str, value: int, least: int = 0) -> bool:
        for part in text.split(","):
            span, _, step = part.partition("/")
            low, dash, high = span.partition("-")
            if span in ("*", "?"):
                low, high = str(least), "99"
            elif not dash:
                high = "99" if step else low
            if int(low) <= value <= int(high) and (value - int(low)) % int(step or 1) == 0:
                return True
        return False

    minute, hour, day, month, weekday = schedule.split()

    def fits(at: datetime) -> bool:
        days = among(day, at.day, 1), among(weekday, at.isoweekday() % 7)
        star = any(text in ("*", "?") for text in (day, weekday))
        of_day = all(days) if star else any(days)
        return of_day and among(month, at.month, 1) and among(hour, at.hour) and among(minute, at.minute)

    at = now.replace(second=0) + timedelta(minutes=1)
    found = cron.following(schedule, now)
    end = at + timedelta(days=7)
    while at < end and not fits(at):
        at += timedelta(minutes=1)
    assert (found == at) if at < end else (found is None or found >= end)
