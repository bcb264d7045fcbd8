"""CronJobs of the operator and of the chart's own values: what they may reach; policies among values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_platform.chart import Release
from mlflow_platform.cli.root import run
from mlflow_platform.deploy import policies
from mlflow_platform.errors import BadDocuments, BadInput
from mlflow_platform.operator.entries import read
from mlflow_platform.operator.schedules import JobTemplate, wanted
from tests.unit.test_chart_mlflow_platform import (
    ARCHIVED,
    BACKUP,
    CHART,
    DRILLED,
    NIGHTLY,
    job_template,
    rendered,
)


@pytest.mark.parametrize(
    ("kind", "place", "one"),
    [
        ("RetentionPolicy", "retention.policies", NIGHTLY),
        ("RetentionPolicy", "retention.policies", ARCHIVED),
        ("BackupSchedule", "backup.schedules", BACKUP),
        ("BackupSchedule", "backup.schedules", DRILLED),
    ],
)
def test_jobs_of_the_operator_and_of_the_chart_are_the_same_but_for_who_made_them(
    kind: str, place: str, one: str, tmp_path: Path
) -> None:
    found = rendered("operator", f"{place}=[{one}]")
    (config,) = (m for m in found if (m.kind, m.name) == ("ConfigMap", "mlflow-operator"))
    path = tmp_path / "jobs.yaml"
    path.write_text(yaml.safe_dump(job_template(config)), "utf-8")
    written = yaml.safe_load(one)
    metadata = {"name": written["name"], "namespace": "mlflow", "uid": "u", "resourceVersion": "1"}
    document = read(kind, {"metadata": metadata, "spec": written["spec"]})
    head = {"name": "default", "uid": "s", "resourceVersion": "1"}
    own = {"trackingUri": "http://mlflow.mlflow.svc:5000"}
    server = read("TrackingServer", {"metadata": head, "spec": own})
    asked = wanted(document, server, JobTemplate.read(path), "mlflow")
    charts = {m.name: m.object for m in found if m.kind == "CronJob"}
    assert len(charts) == len(asked.cron_jobs) > 0
    for _, made in asked.cron_jobs:
        mine = charts[made["metadata"]["name"]]["spec"]
        labels = made["spec"]["jobTemplate"]["metadata"]["labels"]
        del labels["mlplatform.io/scheduled-by"]
        assert mounted(made["spec"]) == mounted(mine)
        assert made["spec"] == mine
    (file,) = (m.object["data"] for m in found if "documents.yaml" in m.object.get("data", {}))
    assert asked.config is not None
    assert yaml.safe_load(file["documents.yaml"]) == yaml.safe_load(asked.config["data"]["documents.yaml"])


def mounted(cron_job: dict[str, Any]) -> set[tuple[str, str, str, int]]:
    """Those that its pods mount, taken out of it: in what order they are mounted does not matter."""
    pod = cron_job["jobTemplate"]["spec"]["template"]["spec"]
    volumes = [v for v in pod["volumes"] if v["name"] == "secrets"]
    pod["volumes"] = sorted((v for v in pod["volumes"] if v not in volumes), key=lambda v: v["name"])
    mounts = pod["containers"][0]["volumeMounts"]
    mounts.sort(key=lambda m: m["name"])
    return {
        (source["secret"]["name"], item["key"], item["path"], volume["projected"]["defaultMode"])
        for volume in volumes
        for source in volume["projected"]["sources"]
        for item in source["secret"]["items"]
    }


def test_jobs_reach_the_data_and_nothing_else() -> None:
    found = rendered("operator")
    allowed = {m.name: m.object["spec"] for m in found if m.kind == "NetworkPolicy"}
    own = allowed["mlflow-scheduled"]
    assert own["policyTypes"] == ["Egress"]
    targets = [
        to["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for rule in own["egress"]
        for to in rule["to"]
    ]
    assert targets == ["postgres", "store", "server"]
    for name in targets:
        clients = str(allowed[f"mlflow-{name}"]["ingress"])
        assert "'app.kubernetes.io/component': 'scheduled'" in clients
        assert "scheduled" not in str(
            next(
                m for m in rendered("default") if (m.kind, m.name) == ("NetworkPolicy", f"mlflow-{name}")
            ).object
        )


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (f"{{name: {'a' * 40}, spec: {{schedule: '@daily', rules: {{}}}}}}", "at most 35 characters"),
        ("{name: a, spec: {schedule: '@daily', server: other, rules: {}}}", "leave spec.server out"),
        ("{name: a, spec: {rules: {}}}", "schedule"),
        ("{name: A, spec: {schedule: '@daily', rules: {}}}", "retention.policies[0].name"),
    ],
)
def test_policies_that_the_chart_refuses(policy: str, said: str) -> None:
    with pytest.raises(BadInput, match=re.escape(said)):
        rendered("default", f"retention.policies=[{policy}]")


def test_policies_among_values_are_checked_with_the_model(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(
        "retention:\n  policies:\n    - name: nightly\n      spec:\n        schedule: 0 26 * * *\n"
        "        rules:\n          runs: {olderThan: 9d}\n",
        "utf-8",
    )
    with pytest.raises(BadDocuments) as caught:
        policies.check(CHART.values(files=[path]))
    assert [str(p.where) for p in caught.value.problems] == [f"{path}:5:9"]
    assert "'26' is no hour: 0 to 23" in str(caught.value.problems[0])
    path.write_text(path.read_text("utf-8").replace("26", "2").replace("9d", "3 days, kepLast: 1"), "utf-8")
    with pytest.raises(BadDocuments) as caught:
        policies.check(CHART.values(files=[path]))
    assert [str(p.where) for p in caught.value.problems] == [f"{path}:7:18", f"{path}:7:37"]
    assert "did you mean keepLast?" in str(caught.value.problems[1])
    policies.check(CHART.values())
    path.write_text(
        "backup:\n  schedules:\n    - name: nightly\n      spec:\n        schedule: '@daily'\n"
        "        destination: {uri: s3://b/x, accessKeySecretRef: {name: a, key: b}}\n"
        "        drill: {schedule: 0 26 * * *}\n",
        "utf-8",
    )
    with pytest.raises(BadDocuments) as caught:
        policies.check(CHART.values(files=[path]))
    assert sorted(str(p.where) for p in caught.value.problems) == [f"{path}:6:9", f"{path}:7:17"]


def test_the_values_of_the_backup_guide_are_right(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "backup.md").read_text("utf-8")
    (block,) = (b for b in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if b.startswith("backup:"))
    path = tmp_path / "values.yaml"
    path.write_text(block, "utf-8")
    values = CHART.values(files=[path])
    policies.check(values)
    names = {m.name for m in CHART.render(values, Release("mlflow", "mlflow")) if m.kind == "CronJob"}
    assert names == {"mlflow-backup-nightly", "mlflow-drill-nightly"}


@pytest.mark.parametrize("command", [["render"], ["deploy", "--kubeconfig", "/nowhere"]])
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "retention.policies=[{name: a, spec: {schedule: '@daily', rules: {}}}]",
            "the policy has no rule",
        ),
        (
            "backup.schedules=[{name: a, spec: {schedule: '@daily', destination: {uri: s3://b}, keep: {}}}]",
            "this keeps nothing",
        ),
        (
            (
                "backup.schedules=[{name: a, spec: {schedule: '@daily', destination: {uri: s3://b}, "
                "drill: {schedule: '@weekly'}}}]"
            ),
            "the drill of a has no login for s3://b",
        ),
    ],
)
def test_a_bad_policy_is_said_before_anything_is_done(
    command: list[str], setting: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--set", setting]) == 1
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
