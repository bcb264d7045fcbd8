"""The chart's alerts and dashboard as Prometheus itself reads and evaluates them.

Each alert fires on series that describe its trouble and keeps silent on those of a healthy release; and each
metric that is asked for exists in the sources of whoever exports it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_platform.chart import Release, find_chart
from mlflow_platform.operator import metrics
from tests.tools import go

RELEASE = Release("team", "apps")
HERE = 'namespace="apps"'
WEB = f'{HERE}, job="team"'
POD = f'{HERE}, pod="team-postgres-1"'
CLAIM = f'{HERE}, persistentvolumeclaim="data-team-store-0"'
SCALER = f'{HERE}, horizontalpodautoscaler="team-server"'
GIB = 2**30
JOB = f'{HERE}, job_name="team-retention-nightly-1"'
OPERATOR = f'{HERE}, job="team-operator"'
#: A release that is well: one value a minute, for ten hours.
HEALTHY = {
    f'kube_deployment_status_replicas_available{{{HERE}, deployment="team-server"}}': "3x600",
    f'kube_deployment_spec_replicas{{{HERE}, deployment="team-server"}}': "3x600",
    f'up{{{WEB}, pod="team-server-a"}}': "1x600",
    f'mlflow_http_request_total{{{WEB}, status="200"}}': "0+600x600",
    f'mlflow_http_request_total{{{WEB}, status="500"}}': "0+1x600",
    f'mlflow_http_request_duration_seconds_bucket{{{WEB}, le="0.1"}}': "0+600x600",
    f'mlflow_http_request_duration_seconds_bucket{{{WEB}, le="10"}}': "0+600x600",
    f'mlflow_http_request_duration_seconds_bucket{{{WEB}, le="+Inf"}}': "0+600x600",
    f"kube_horizontalpodautoscaler_status_current_replicas{{{SCALER}}}": "3x600",
    f"kube_horizontalpodautoscaler_spec_max_replicas{{{SCALER}}}": "10x600",
    f'kube_pod_container_status_restarts_total{{{HERE}, pod="team-server-a", container="server"}}': "1x600",
    # A nightly job that failed, and after it one that ended well; and the one of last year, without an owner.
    f'kube_job_failed{{{JOB}, condition="true"}}': "1x600",
    f"kube_job_status_start_time{{{JOB}}}": "3600x600",
    f'kube_job_owner{{{JOB}, owner_kind="CronJob", owner_name="team-retention-nightly"}}': "1x600",
    f'kube_cronjob_status_last_successful_time{{{HERE}, cronjob="team-retention-nightly"}}': "7200x600",
    f'kube_job_failed{{{HERE}, job_name="other", condition="true"}}': "1x600",
    f'kube_job_status_start_time{{{HERE}, job_name="other"}}': "3600x600",
    f'mlplatform_operator_leading{{{OPERATOR}, pod="a"}}': "0x600",
    f'mlplatform_operator_leading{{{OPERATOR}, pod="b"}}': "1x600",
    f'mlplatform_operator_last_round_timestamp_seconds{{{OPERATOR}, pod="a", server="default"}}': "60x600",
    f'mlplatform_operator_last_round_timestamp_seconds{{{OPERATOR}, pod="b", server="default"}}': "0+60x600",
    f'kube_job_failed{{{HERE}, job_name="team-migrate-0123456789", condition="true"}}': "0x600",
    f"kubelet_volume_stats_available_bytes{{{CLAIM}}}": f"{80 * GIB}x600",
    f"kubelet_volume_stats_capacity_bytes{{{CLAIM}}}": f"{100 * GIB}x600",
    f'cnpg_backends_total{{{POD}, state="idle", usename="mlflow"}}': "40x600",
    f'cnpg_backends_total{{{POD}, state="active", usename="mlflow"}}': "10x600",
    f'cnpg_pg_settings_setting{{{POD}, name="max_connections"}}': "100x600",
}


def series(name: str) -> str:
    """The one healthy series that starts with this."""
    (found,) = (s for s in HEALTHY if s.startswith(name))
    return found


#: For each alert, what is different where it must fire.
TROUBLE = {
    "MLflowDown": {series("kube_deployment_status"): "0x600"},
    "MLflowServersMissing": {series("kube_deployment_status"): "2x600"},
    "MLflowNotScraped": {series("up"): "0x600"},
    "MLflowErrors": {f'mlflow_http_request_total{{{WEB}, status="500"}}': "0+60x600"},
    "MLflowSlow": {f'mlflow_http_request_duration_seconds_bucket{{{WEB}, le="0.1"}}': "0+300x600"},
    "MLflowAtMostReplicas": {series("kube_horizontalpodautoscaler_status"): "10x600"},
    "MLflowRestarts": {series("kube_pod_container_status_restarts"): "0+1x600"},
    "MLflowMigrationFailed": {
        f'kube_job_failed{{{HERE}, job_name="team-migrate-0123456789", condition="true"}}': "1x600"
    },
    "MLflowScheduledJobFailed": {f"kube_job_status_start_time{{{JOB}}}": "10800x600"},
    "MLflowOperatorWithoutLeader": {f'mlplatform_operator_leading{{{OPERATOR}, pod="b"}}': "0x600"},
    "MLflowOperatorBehind": {
        f'mlplatform_operator_last_round_timestamp_seconds{{{OPERATOR}, pod="b", server="default"}}': "60x600"
    },
    "MLflowVolumeNearlyFull": {series("kubelet_volume_stats_available"): f"{9 * GIB}x600"},
    # A hundred GiB of which 0.02 go every minute: empty in 3.5 days, and after nine hours 89 are left.
    "MLflowVolumeFillsUp": {series("kubelet_volume_stats_available"): f"{100 * GIB}-{GIB // 50}x600"},
    "MLflowDatabaseConnections": {
        f'cnpg_backends_total{{{POD}, state="active", usename="mlflow"}}': "45x600"
    },
}
#: Alerts that a trouble brings along.
ALSO = {"MLflowDown": {"MLflowServersMissing"}}


def rendered(kind: str, name: str) -> dict[str, Any]:
    chart = find_chart()
    values = chart.values(profile="production", settings=["store.bucket=artifacts"])
    (found,) = (m.object for m in chart.render(values, RELEASE) if (m.kind, m.name) == (kind, name))
    return dict(found)


def groups() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rendered("PrometheusRule", "team-server")["spec"]["groups"]
    return found


def dashboard() -> dict[str, Any]:
    (text,) = rendered("ConfigMap", "team-dashboard")["data"].values()
    found: dict[str, Any] = json.loads(text)
    return found


def queries() -> list[str]:
    """Of the dashboard, with Grafana's interval filled in."""
    return [
        target["expr"].replace("$__rate_interval", "5m")
        for panel in dashboard()["panels"]
        for target in panel["targets"]
    ]


def promtool(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(go.program("promtool")), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(path: Path, content: Any) -> str:
    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return path.name


def test_promtool_accepts_every_rule_and_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = groups()
    records = [{"record": f"panel:{i}", "expr": query} for i, query in enumerate(queries())]
    file = written(tmp_path / "rules.yaml", {"groups": [*rules, {"name": "dashboard", "rules": records}]})
    said = promtool(tmp_path, "check", "rules", "--lint-fatal", file)
    assert f"{len(rules[0]['rules']) + len(records)} rules found" in said


def test_each_alert_fires_on_its_trouble_and_on_no_other(tmp_path: Path) -> None:
    alerts = {rule["alert"]: rule for group in groups() for rule in group["rules"]}
    assert set(alerts) == set(TROUBLE)
    cases: dict[str, dict[str, str]] = {"": {}, **TROUBLE}
    tests = [
        {
            "name": trouble or "healthy",
            "interval": "1m",
            "input_series": [{"series": s, "values": v} for s, v in {**HEALTHY, **different}.items()],
            "promql_expr_test": [
                {
                    "expr": f'count by (alertname) (ALERTS{{alertstate="firing", alertname="{name}"}})',
                    "eval_time": "9h",
                    "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1}]
                    if name in {trouble, *ALSO.get(trouble, ())}
                    else [],
                }
                for name in alerts
            ],
        }
        for trouble, different in cases.items()
    ]
    rules = written(tmp_path / "rules.yaml", {"groups": groups()})
    file = written(
        tmp_path / "tests.yaml", {"rule_files": [rules], "evaluation_interval": "5m", "tests": tests}
    )
    assert "SUCCESS" in promtool(tmp_path, "test", "rules", file)


def test_a_job_that_never_succeeded_is_told_as_well(tmp_path: Path) -> None:
    inputs = [{"series": s, "values": v} for s, v in HEALTHY.items() if "last_successful" not in s]
    alert = 'count by (owner_name) (ALERTS{alertstate="firing", alertname="MLflowScheduledJobFailed"})'
    found = [{"labels": '{owner_name="team-retention-nightly"}', "value": 1}]
    case = {"interval": "1m", "input_series": inputs}
    case["promql_expr_test"] = [{"expr": alert, "eval_time": "9h", "exp_samples": found}]
    rules = written(tmp_path / "rules.yaml", {"groups": groups()})
    file = written(
        tmp_path / "tests.yaml", {"rule_files": [rules], "evaluation_interval": "5m", "tests": [case]}
    )
    assert "SUCCESS" in promtool(tmp_path, "test", "rules", file)


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in groups()[0]["rules"]:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert all(len(rule["annotations"][part]) > 20 for part in ("summary", "action"))
    assert "RELEASE" not in json.dumps(groups())
    assert "NAMESPACE" not in json.dumps([groups(), dashboard()])
    assert "INTERVAL" not in json.dumps(groups())


def metrics_of(text: str) -> set[str]:
    """Names of metrics in PromQL: words before a brace, and none of its functions."""
    return set(re.findall(r"\b([a-z_]+)\{", text))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What those that export metrics say they export, one name a line."""
    return "\n".join(
        [*mlflow_exports(tmp_path_factory.mktemp("metrics")), *cluster_exports(), *operator_exports(), "up"]
    )


def operator_exports() -> Iterator[str]:
    for name in metrics.HELP:
        yield f"{metrics.PREFIX}{name}"


def mlflow_exports(folder: Path) -> Iterator[str]:
    """MLflow's own exporter, in a process of its own: it answers a request, then lists its metrics."""
    program = """
from flask import Flask
from mlflow.server.prometheus_exporter import activate_prometheus_exporter
app = Flask("app")
activate_prometheus_exporter(app)
app.add_url_rule("/", view_func=lambda: "ok")
client = app.test_client()
client.get("/")
print(client.get("/metrics").text)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PROMETHEUS_MULTIPROC_DIR": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    yield from re.findall(r"^(mlflow_\w+)\{", done.stdout, re.MULTILINE)


def cluster_exports() -> Iterator[str]:
    """kube-state-metrics' documents, the kubelet's sources, CloudNativePG's queries."""
    for page in (go.module(*go.KUBE_STATE_METRICS) / "docs/metrics/workload").glob("*.md"):
        yield from re.findall(r"^\| (kube_\w+)", page.read_text("utf-8"), re.MULTILINE)
    kubernetes = go.module("k8s.io/kubernetes", "v1.34.4")
    for name in re.findall(
        r'"(volume_stats_\w+)"', (kubernetes / "pkg/kubelet/metrics/metrics.go").read_text("utf-8")
    ):
        yield f"kubelet_{name}"
    cadvisor = kubernetes / "test/e2e_node/container_metrics_test.go"
    yield from re.findall(r'"(container_\w+)"', cadvisor.read_text("utf-8"))
    monitoring = go.module(*go.CLOUDNATIVE_PG) / "config/manager/default-monitoring.yaml"
    for document in yaml.safe_load_all(monitoring.read_text("utf-8")):
        for query, content in yaml.safe_load(document["data"]["queries"]).items():
            for column in content["metrics"]:
                yield from (f"cnpg_{query}_{name}" for name in column)


def test_every_metric_exists(exported: str) -> None:
    names = set(exported.splitlines())
    asked = metrics_of("\n".join([*(r["expr"] for g in groups() for r in g["rules"]), *queries()]))
    assert len(asked) > 15
    assert asked - names == set()
