"""Retention policies and backups through kubectl and a running operator: CronJobs, kept as they should be.

Here is no controller-manager: nothing starts jobs or collects what lost its owner. How jobs ended is written
into the API server as the controller would; a job that runs is in tests/cluster/test_operator.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.config import load
from mlflow_platform.errors import Rejected
from mlflow_platform.model import cron
from mlflow_platform.model.base import API_VERSION
from mlflow_platform.operator.entries import ALLOW_DESTRUCTIVE
from mlflow_platform.operator.schedules import SCHEDULED_BY
from tests.operator.running import OPS, Json, Process, Site, document, eventually

RULES = {"runs": {"softDeletedFor": "30d"}}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="module")
def operator(site: Site, template: Path) -> Iterator[Process]:
    with site.running("--job-template", str(template)) as process:
        yield process


def policy(name: str, /, namespace: str = OPS, **spec: Any) -> Json:
    return document("RetentionPolicy", name, {"schedule": "0 2 * * *", "rules": RULES, **spec}, namespace)


def made(site: Site, name: str, kind: str = "CronJob", noun: str = "retention") -> Json:
    api_version = "batch/v1" if kind == "CronJob" else "v1"
    return dict(site.cluster.get(api_version, kind, OPS, f"mlflow-{noun}-{name}") or {})


def backup(name: str, /, namespace: str = OPS, **spec: Any) -> Json:
    keys = {f"{what}SecretRef": {"name": "backup-store", "key": what} for what in ("accessKey", "secretKey")}
    spec = {"schedule": "0 2 * * *", "drill": {"schedule": "0 5 * * 0"}, **spec}
    return document("BackupSchedule", name, {"destination": {"uri": "s3://b/x", **keys}, **spec}, namespace)


def container(cron_job: Json) -> Json:
    (found,) = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def another_round(operator: Process) -> None:
    """Wait for a round that begins from now on."""
    wanted = operator.metric("schedule_rounds_total", 'result="ok"') + 2
    eventually(lambda: operator.metric("schedule_rounds_total", 'result="ok"') >= wanted, "another round")


def versions(site: Site) -> dict[str, str]:
    """Of all policies, and of all that is made for them."""
    kinds = [(API_VERSION, kind) for kind in ("RetentionPolicy", "BackupSchedule")]
    kinds += [("v1", "ConfigMap"), ("batch/v1", "CronJob")]
    found = [o for api_version, kind in kinds for o in site.cluster.find(api_version, kind, OPS)]
    return {f"{o['kind']}/{o['metadata']['name']}": o["metadata"]["resourceVersion"] for o in found}


def test_a_policy_becomes_a_cron_job_and_nothing_is_written_again(
    site: Site, operator: Process, tmp_path: Path
) -> None:
    site.apply(policy("nightly", selector={"experiments": ["a/*"]}))
    site.reach("RetentionPolicy", "nightly", "Scheduled")
    ready = "--for=condition=Ready"
    site.control_plane.kubectl("-n", OPS, "wait", "retention/nightly", ready, "--timeout=9s")
    site.event("nightly", "Created")
    job, config = made(site, "nightly"), made(site, "nightly", "ConfigMap")
    uid = site.find("RetentionPolicy", "nightly")["metadata"]["uid"]
    for one in (job, config):
        (owner,) = one["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("RetentionPolicy", "nightly", uid)
    spec = job["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["suspend"]) == ("0 2 * * *", "Etc/UTC", False)
    assert spec["concurrencyPolicy"] == "Forbid"
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("mlflow-server", False)
    # What the pod is told, the command line takes.
    file = tmp_path / "documents.yaml"
    file.write_text(config["data"]["documents.yaml"], "utf-8")
    (loaded,) = load([file]).documents
    assert loaded.document.spec.selector.experiments == ["a/*"]
    documents = "/etc/mlplatform/documents/documents.yaml"
    assert container(job)["args"][:5] == ["retention", "run", documents, "--policy", "nightly"]
    assert "secret" not in json.dumps(config).lower()

    before, written = versions(site), operator.metric("schedule_writes_total")
    another_round(operator)
    assert versions(site) == before
    assert operator.metric("schedule_writes_total") == written
    shown = site.control_plane.kubectl("-n", OPS, "get", "retention", "nightly").splitlines()
    assert shown[0].split()[:4] == ["NAME", "SERVER", "SCHEDULE", "LAST"]


def test_their_pods_are_as_pod_security_restricted_asks(site: Site, operator: Process) -> None:
    site.apply(policy("restricted"), backup("restricted"))
    site.reach("RetentionPolicy", "restricted", "Scheduled")
    site.reach("BackupSchedule", "restricted", "Scheduled")
    namespace = site.namespace("restricted-pods", **RESTRICTED)
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    site.apply({**account, "metadata": {"name": "mlflow-server", "namespace": namespace}})
    for noun in ("retention", "backup", "drill"):
        template = made(site, "restricted", noun=noun)["spec"]["jobTemplate"]["spec"]["template"]
        metadata = {**template["metadata"], "name": "pod", "namespace": namespace}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        site.cluster.create(pod, dry_run=True)


def test_what_was_edited_by_hand_is_put_back(site: Site, operator: Process) -> None:
    site.apply(policy("edited"))
    site.reach("RetentionPolicy", "edited", "Scheduled")
    cron_job = "cronjob/mlflow-retention-edited"
    kubectl = site.control_plane.kubectl
    kubectl("-n", OPS, "patch", cron_job, "--type=merge", "-p", '{"spec": {"schedule": "@hourly"}}')
    extra = '[{"op": "add", "path": "/spec/jobTemplate/spec/template/spec/containers/0/env/-", "value": '
    kubectl("-n", OPS, "patch", cron_job, "--type=json", "-p", extra + '{"name": "X", "value": "y"}}]')
    kubectl("-n", OPS, "annotate", cron_job, "example.com/seen=yes")
    kubectl("-n", OPS, "label", cron_job, f"{SCHEDULED_BY}-")

    def right() -> bool:
        found = made(site, "edited")
        names = [e["name"] for e in container(found)["env"]]
        return found["spec"]["schedule"] == "0 2 * * *" and "X" not in names

    eventually(right, "it is put back")
    metadata = made(site, "edited")["metadata"]
    assert metadata["annotations"]["example.com/seen"] == "yes"
    assert metadata["labels"][SCHEDULED_BY] == "mlflow"
    site.reach("RetentionPolicy", "edited", "Scheduled")
    site.event("edited", "DriftCorrected", words="CronJob mlflow-retention-edited")
    site.cluster.delete("v1", "ConfigMap", OPS, "mlflow-retention-edited")
    eventually(lambda: made(site, "edited", "ConfigMap"), "it is made again")


def test_a_changed_policy_changes_its_cron_job_and_one_that_goes_takes_it_along(
    site: Site, operator: Process
) -> None:
    site.apply(policy("changing"))
    site.reach("RetentionPolicy", "changing", "Scheduled")
    site.apply(policy("changing", schedule="@weekly", suspend=True, dryRun=True))
    site.reach("RetentionPolicy", "changing", "Suspended")
    found = made(site, "changing")
    assert (found["spec"]["schedule"], found["spec"]["suspend"]) == ("@weekly", True)
    assert container(found)["args"][:2] == ["retention", "plan"]
    site.event("changing", "Updated")
    site.apply(document("RetentionPolicy", "changing", {"rules": RULES}))
    site.reach("RetentionPolicy", "changing", "NotScheduled")
    eventually(lambda: not made(site, "changing"), "the CronJob is gone")
    assert "cronJob" not in site.find("RetentionPolicy", "changing")["status"]
    site.apply(policy("changing"))
    site.reach("RetentionPolicy", "changing", "Scheduled")
    site.delete("RetentionPolicy", "changing")
    eventually(lambda: not made(site, "changing"), "the CronJob is gone")
    eventually(lambda: not made(site, "changing", "ConfigMap"), "the ConfigMap is gone")


def test_another_server_lends_its_own_secrets_by_name(site: Site, operator: Process) -> None:
    site.apply(policy("elsewhere", server="far"))
    site.reach("RetentionPolicy", "elsewhere", "ServerNotFound")
    site.server("far")
    said = site.reach("RetentionPolicy", "elsewhere", "Waiting")["message"]
    assert "Write spec.database and spec.artifacts" in said
    assert not made(site, "elsewhere")
    site.secret(OPS, "far-db", uri="postgresql://far:the-password@far/mlflow")
    site.server(
        "far",
        database={"uriSecretRef": {"name": "far-db", "key": "uri"}},
        artifacts={"destination": "s3://far"},
    )
    site.reach("RetentionPolicy", "elsewhere", "Scheduled")
    found = made(site, "elsewhere")
    assert [e["name"] for e in container(found)["env"]] == ["HOME"]
    assert container(found)["args"][-2:] == ["--secrets", "/etc/mlplatform/secrets"]
    assert "the-password" not in json.dumps([found, made(site, "elsewhere", "ConfigMap")])
    site.delete("TrackingServer", "far", "")
    eventually(lambda: not made(site, "elsewhere"), "the CronJob is gone")


def test_policies_live_in_the_operators_namespace_only(site: Site, operator: Process) -> None:
    tenant = site.namespace("policy-tenant")
    site.apply(policy("sneaky", tenant))
    said = site.reach("RetentionPolicy", "sneaky", "NotAllowed", tenant)["message"]
    assert "in the operator's namespace only, not in policy-tenant" in said
    site.event("sneaky", "NotAllowed", tenant)
    everywhere = site.cluster.find("batch/v1", "CronJob", "")
    assert not [c for c in everywhere if "sneaky" in c["metadata"]["name"]]


def test_what_the_api_server_lets_pass_is_told(site: Site, operator: Process) -> None:
    site.apply(policy("never", schedule="0 26 * * *"))
    assert "'26' is no hour: 0 to 23" in site.reach("RetentionPolicy", "never", "Invalid")["message"]
    site.apply(policy("whole"))
    site.reach("RetentionPolicy", "whole", "Scheduled")
    theirs = made(site, "whole")
    head = {"name": "mlflow-retention-taken", "namespace": OPS}
    site.apply({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": head, "spec": theirs["spec"]})
    site.apply(policy("taken"))
    assert "not this document's" in site.reach("RetentionPolicy", "taken", "Conflict")["message"]
    site.cluster.delete("batch/v1", "CronJob", OPS, "mlflow-retention-taken")
    site.reach("RetentionPolicy", "taken", "Scheduled")


def ended(
    site: Site, name: str, job: str, failed: str = "", message: str = "", noun: str = "retention"
) -> None:
    """A Job of the CronJob, made as `kubectl create job --from` does, that has ended."""
    cron_job = made(site, name, noun=noun)
    owner = {"apiVersion": "batch/v1", "kind": "CronJob", "controller": True}
    owner |= {k: cron_job["metadata"][k] for k in ("name", "uid")}
    wanted = cron_job["spec"]["jobTemplate"]
    metadata = {**wanted["metadata"], "name": job, "namespace": OPS, "ownerReferences": [owner]}
    site.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": wanted["spec"]})
    time.sleep(1.1)  # times are whole seconds
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = {"status": "True", "lastTransitionTime": now, "lastProbeTime": now, "message": message}
    kinds = ("FailureTarget", "Failed") if failed else ("SuccessCriteriaMet", "Complete")
    status: Json = {"startTime": now, "conditions": [{"type": k, "reason": failed, **about} for k in kinds]}
    if not failed:
        status |= {"completionTime": now, "succeeded": 1}
    site.cluster.patch("batch/v1", "Job", OPS, job, {"status": status}, subresource="status")


def test_how_the_last_job_ended_is_said(site: Site, operator: Process) -> None:
    site.apply(policy("failing"))
    site.reach("RetentionPolicy", "failing", "Scheduled")
    ended(site, "failing", "failing-1", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    said = site.reach("RetentionPolicy", "failing", "JobFailed")["message"]
    assert f"`kubectl -n {OPS} logs job/failing-1`" in said
    assert site.condition("RetentionPolicy", "failing", type_="Reconciling")["status"] == "True"
    assert "failing-1" in site.event("failing", "JobFailed")
    brake = f"Container job for pod {OPS}/x failed with exit code 3 matching FailJob rule at index 0"
    ended(site, "failing", "failing-2", "PodFailurePolicy", brake)
    site.reach("RetentionPolicy", "failing", "BrakeStopped")
    assert site.condition("RetentionPolicy", "failing", type_="Stalled")["status"] == "True"
    site.control_plane.kubectl("-n", OPS, "annotate", "retention", "failing", f"{ALLOW_DESTRUCTIVE}=0a1b2c")
    eventually(
        lambda: container(made(site, "failing"))["args"][-2:] == ["--allow-destructive", "0a1b2c"],
        "the hash is passed on",
    )
    ended(site, "failing", "failing-3")
    site.reach("RetentionPolicy", "failing", "Scheduled")
    status = site.find("RetentionPolicy", "failing")["status"]
    assert status["lastSuccessfulTime"] == status["lastRunTime"]
    assert status["cronJob"] == "mlflow-retention-failing"


def test_a_backup_and_its_drill_are_a_cron_job_each(site: Site, operator: Process, tmp_path: Path) -> None:
    site.secret(OPS, "backup-store", accessKey="the-access-key", secretKey="the-secret-key")
    site.secret(OPS, "backup-key", key="the-key")
    site.apply(
        backup("nightly", encryptionKeySecretRef={"name": "backup-key", "key": "key"}, keep={"last": 7})
    )
    site.reach("BackupSchedule", "nightly", "Scheduled")
    site.control_plane.kubectl("-n", OPS, "wait", "mlbackup/nightly", "--for=condition=Ready", "--timeout=9s")
    config = made(site, "nightly", "ConfigMap", "backup")
    file = tmp_path / "documents.yaml"
    file.write_text(config["data"]["documents.yaml"], "utf-8")
    (loaded,) = load([file]).documents
    assert loaded.document.spec.keep.last == 7
    uid = site.find("BackupSchedule", "nightly")["metadata"]["uid"]
    about = ["-f", "/etc/mlplatform/documents/documents.yaml", "--schedule", "nightly"]
    secrets = ["--secrets", "/etc/mlplatform/secrets"]
    for noun, schedule, command in (
        ("backup", "0 2 * * *", ["create", *about]),
        ("drill", "0 5 * * 0", ["drill", *about, "--database", "MLPLATFORM_SCRATCH_DATABASE_URI"]),
    ):
        found = made(site, "nightly", noun=noun)
        assert [o["uid"] for o in found["metadata"]["ownerReferences"]] == [uid]
        assert found["spec"]["schedule"] == schedule
        assert container(found)["args"] == ["backup", *command, *secrets]
        pod = found["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        volumes = {v["name"]: v for v in pod["volumes"]}
        assert volumes["documents"]["configMap"]["name"] == config["metadata"]["name"]
        items = [i["path"] for s in volumes["secrets"]["projected"]["sources"] for i in s["secret"]["items"]]
        assert items == ["backup-key/key", "backup-store/accessKey", "backup-store/secretKey"]
        assert "the-" not in json.dumps([found, config])
    status = site.find("BackupSchedule", "nightly")["status"]
    assert (status["cronJob"], status["drillCronJob"]) == ("mlflow-backup-nightly", "mlflow-drill-nightly")
    now = datetime.now(UTC)
    for told, schedule in (("nextRunTime", "0 2 * * *"), ("nextDrillTime", "0 5 * * 0")):
        after = cron.following(schedule, now)
        assert after is not None
        assert status[told] == after.strftime("%Y-%m-%dT%H:%M:%SZ")

    ended(site, "nightly", "nightly-1", noun="backup")
    ended(site, "nightly", "drill-1", "BackoffLimitExceeded", "Job has reached the limit", noun="drill")
    said = site.reach("BackupSchedule", "nightly", "JobFailed")["message"]
    assert "the job drill-1 failed" in said
    status = site.find("BackupSchedule", "nightly")["status"]
    assert status["lastSuccessfulTime"] == status["lastRunTime"]
    assert "lastDrillTime" in status
    assert "lastSuccessfulDrillTime" not in status
    ended(site, "nightly", "drill-2", noun="drill")
    site.reach("BackupSchedule", "nightly", "Scheduled")

    # Without its drill, and then without a time at all.
    site.control_plane.kubectl(
        *("-n", OPS, "patch", "mlbackup", "nightly", "--type=json"),
        *("-p", '[{"op": "remove", "path": "/spec/drill"}]'),
    )
    eventually(lambda: not made(site, "nightly", noun="drill"), "the drill's CronJob is gone")
    status = eventually(
        lambda: (
            found if "drillCronJob" not in (found := site.find("BackupSchedule", "nightly")["status"]) else {}
        ),
        "the status says nothing of a drill",
    )
    assert not [name for name in status if "Drill" in name]
    assert made(site, "nightly", noun="backup")
    site.delete("BackupSchedule", "nightly")
    eventually(lambda: not made(site, "nightly", noun="backup"), "the CronJob is gone")


def test_backups_live_in_the_operators_namespace_only(site: Site, operator: Process) -> None:
    tenant = site.namespace("backup-tenant")
    site.apply(backup("sneaky", tenant))
    said = site.reach("BackupSchedule", "sneaky", "NotAllowed", tenant)["message"]
    assert "in the operator's namespace only, not in backup-tenant" in said
    everywhere = site.cluster.find("batch/v1", "CronJob", "")
    assert not [c for c in everywhere if "sneaky" in c["metadata"]["name"]]


def test_a_restart_writes_nothing(site: Site, operator: Process, template: Path) -> None:
    """The last test of the module: the operator that it shares ends here."""
    another_round(operator)
    before = versions(site)
    operator.end()
    with site.running("--job-template", str(template)) as again:
        another_round(again)
        assert again.metric("schedule_writes_total") == 0
        assert versions(site) == before


FIELD = st.one_of(
    st.sampled_from(["*", "?", "*/5", "1-5", "0", "5/2", "JAN", "mon-fri", "7", "60", "5-3", "1,,2", "*/0"]),
    st.text("0123456789*/,-?", min_size=1, max_size=5),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FIELD, min_size=5, max_size=5).map(" ".join))
def test_kubernetes_takes_the_schedules_that_the_model_takes(cluster: Cluster, schedule: str) -> None:
    pod = {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}
    spec = {"schedule": schedule, "jobTemplate": {"spec": {"template": {"spec": pod}}}}
    metadata = {"name": "tried", "namespace": "default"}
    wanted = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": spec}
    try:
        cluster.create(wanted, dry_run=True)
        taken = True
    except Rejected:
        taken = False
    if not cron.mistake(schedule):
        assert taken
    # The model refuses more: nothing between two commas, a star that begins a range.
    if taken and cron.mistake(schedule):
        assert any(not p or (p[0] in "*?" and p[1:2] == "-") for f in schedule.split() for p in f.split(","))
