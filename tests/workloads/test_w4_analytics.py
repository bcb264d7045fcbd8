"""W4, multi-agent analytics: what the platform creates, and what its agents log."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from mlflow_platform.cli.root import run
from mlflow_platform.cli.transfer import open_target
from mlflow_platform.client import AgentSettings
from mlflow_platform.config import load
from mlflow_platform.errors import BadDocuments
from mlflow_platform.local import Stack
from tests.workloads.ran import ROOT, Workload, Workloads

pytest_plugins = ("tests.workloads.fixtures",)

BRANDS, TIERS = ("north", "south", "east"), ("gold", "silver", "bronze", "trial", "internal")

SET = """
apiVersion: mlplatform.io/v1alpha1
kind: ExperimentSet
metadata: {{name: agents}}
spec:
  matrix: {{brand: [{brands}], tier: [{tiers}]}}
  template:
    name: "w4-1/{{{{ brand }}}}/{{{{ tier }}}}"
    tags: {{brand: "{{{{ brand }}}}", tier: "{{{{ tier }}}}"}}
"""


def test_w4_1_experiments_of_a_matrix_by_one_naming_convention(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stack.endpoints().environment().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "mlplatform.toml").write_text('project = "w4-1"\n')
    (tmp_path / "agents.yaml").write_text(SET.format(brands=", ".join(BRANDS), tiers=", ".join(TIERS)))
    assert run(["apply", str(tmp_path)]) == 0
    body = {"max_results": 50_000, "view_type": "ACTIVE_ONLY", "filter": "name LIKE 'w4-1/%'"}
    api = open_target(None, "project:w4-1").api
    found = api.call("POST", "api/2.0/mlflow/experiments/search", json=body)["experiments"]
    assert {e["name"] for e in found} == {f"w4-1/{b}/{t}" for b in BRANDS for t in TIERS}
    for experiment in found:
        tags = {t["key"]: t["value"] for t in experiment["tags"]}
        assert experiment["name"] == f"w4-1/{tags['brand']}/{tags['tier']}"


def test_w4_1_the_examples_declare_three_brands_and_five_tiers() -> None:
    examples = load([Path(__file__).parents[2] / "manifests" / "examples"])
    sets = [d.document.spec.matrix for d in examples.documents if d.document.kind == "ExperimentSet"]
    shapes = [{axis: len(values) for axis, values in matrix.items()} for matrix in sets]
    assert {"brand": 3, "tier": 5} in shapes


@pytest.fixture(scope="module")
def analytics(workloads: Workloads) -> Workload:
    return workloads.run("analytics.py")


def opened(analytics: Workload) -> Any:
    return analytics.client.get_run(analytics.printed["open"])


def traces_of(analytics: Workload, run: str) -> list[Any]:
    return [
        t for t in analytics.traces() if t.info.trace_metadata["mlflow.sourceRun"] == analytics.printed[run]
    ]


def test_w4_1_an_agents_settings_come_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("mlflow_experiment: north/gold\nlog_prompts: false\nmodel: {name: fake-1}\n")
    settings = AgentSettings.load(file)
    assert (settings.mlflow_experiment, settings.log_prompts, settings.log_artifacts) == (
        "north/gold",
        False,
        True,
    )
    assert settings.own == {"model": {"name": "fake-1"}}
    file.write_text("model: x\nlog_prompts: maybe\n  log_artifacts: 1\n")
    with pytest.raises(BadDocuments, match=re.escape(f"{file}:3:")):
        AgentSettings.load(file)
    file.write_text("model: x\nlog_prompts: maybe\nlog_artifacts: 1\n")
    with pytest.raises(BadDocuments) as caught:
        AgentSettings.load(file)
    said = [str(p).splitlines()[0] for p in caught.value.problems]
    assert said == [
        f"{file}: mlflow_experiment is missing",
        f"{file}:2:1: log_prompts is 'maybe', not true or false",
        f"{file}:3:1: log_artifacts is 1, not true or false",
    ]
    file.write_text("all: &all {log_prompts: maybe}\n<<: *all\nmlflow_experiment: x\n")
    with pytest.raises(BadDocuments, match="log_prompts is 'maybe', not true or false"):
        AgentSettings.load(file)
    for text, where, said in (
        (b"mlflow_experiment: x\nsince: 2024-13-45\n", ":2:8", "month must be in 1..12"),
        (b"mlflow_experiment: x\nn: !!int many\n", ":2:4", "invalid literal for int"),
        (b"mlflow_experiment: x\ncaf\xe9: 1\n", ":2:4", "no UTF-8: the byte 0xe9"),
        (b"mlflow_experiment: x\nbell: \x07\n", ":2:7", "the character 0x0007"),
        (b"- " * 5000, "", "nested too deeply"),
    ):
        file.write_bytes(text)
        with pytest.raises(BadDocuments) as caught:
            AgentSettings.load(file)
        (problem,) = map(str, caught.value.problems)
        assert problem.startswith(f"{file}{where}: ")
        assert said in problem
    file.unlink()
    with pytest.raises(BadDocuments, match="cannot be read: No such file"):
        AgentSettings.load(file)


def test_w4_2_a_callback_handler_logs_calls_of_models_and_who_made_them(analytics: Workload) -> None:
    assert analytics.printed["failures"] == 0
    run = opened(analytics)
    assert {k: run.data.tags[k] for k in ("agent_tier", "agent_brand", "agent_kpi")} == {
        "agent_tier": "2",
        "agent_brand": "aurora",
        "agent_kpi": "revenue",
    }
    for name in ("prompt_tokens", "completion_tokens", "total_tokens", "latency_seconds"):
        history = analytics.client.get_metric_history(run.info.run_id, name)
        assert [m.step for m in history if m.step] == [1, 2], name
        assert all(m.value > 0 for m in history)
    total = {n: run.data.metrics[n] for n in ("prompt_tokens", "completion_tokens", "total_tokens")}
    assert total["prompt_tokens"] + total["completion_tokens"] == total["total_tokens"]
    first, second = traces_of(analytics, "open")
    assert first.info.tags["agent_brand"] == second.info.tags["agent_brand"] == "aurora"
    spans = {s.name: s for s in first.data.spans}
    assert set(spans) == {"LangGraph", "retrieve", "FactRetriever", "write", "FakeChatModel"}
    call = spans["FakeChatModel"]
    assert (call.span_type, call.parent_id) == ("CHAT_MODEL", spans["write"].span_id)
    (messages,) = call.inputs["messages"]
    assert messages[-1] == {"role": "human", "content": "What is an activity in PROV?"}
    assert call.outputs == analytics.printed["answer"]
    assert call.attributes["temperature"] == 0.1
    assert first.info.token_usage["total_tokens"] == call.attributes["total_tokens"]


def test_w4_2_prompts_stay_here_where_the_agents_settings_say_so(analytics: Workload) -> None:
    quiet, failed = sorted(traces_of(analytics, "hidden"), key=lambda t: t.info.request_time)
    for trace in (quiet, failed):
        for span in trace.data.spans:
            logged = json.dumps(span.to_dict(), default=str)
            assert "PROV" not in logged, span.name
            assert "a node that fails" not in logged, "an error may repeat what was asked"
    (call,) = (s for s in quiet.data.spans if s.span_type == "CHAT_MODEL")
    assert call.attributes["total_tokens"] > 0
    assert analytics.printed["failed"] == "a node that fails"
    assert failed.info.state == "ERROR"
    assert "RuntimeError" in [s.attributes.get("exception.type") for s in failed.data.spans]


def test_w4_3_retrieval_has_its_query_documents_and_scores(analytics: Workload) -> None:
    trace = traces_of(analytics, "open")[0]
    (span,) = (s for s in trace.data.spans if s.span_type == "RETRIEVER")
    assert span.inputs == {"query": "What is an activity in PROV?"}
    assert [d["metadata"]["rank"] for d in span.outputs] == [1, 2]
    scores = [d["metadata"]["score"] for d in span.outputs]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0


def test_w4_4_hyperparameters_and_metrics_of_ones_own(analytics: Workload) -> None:
    run = opened(analytics)
    assert run.data.params == {"temperature": "0.1", "max_tokens": "100", "model_version": "fake-1"}
    own = {k: run.data.metrics[k] for k in ("causal_confidence", "gap_score", "drift_magnitude")}
    assert own == {"causal_confidence": 0.8, "gap_score": 0.2, "drift_magnitude": 0.05}


#: Two processes with a spool in common, in each six agents at once.
_CONCURRENT = """
import subprocess, sys, threading
from mlflow_platform.client import MLflowTracer, MLflowTracker
tracker = MLflowTracker()
tracer = MLflowTracer(tracker)
child = None if "child" in sys.argv else subprocess.Popen([sys.executable, __file__, "child"])
side = "parent" if child else "child"
def agent(number):
    with tracker.start_run(f"{side}-{number}", tags={"agent": number}) as run:
        for step in range(200):
            run.log_metrics({"latency_ms": number + step / 10}, step)
            together.log_metrics({f"agent_{number}": step}, step)
        for step in range(5):
            with tracer.span("call", inputs={"step": step}):
                pass
with tracker.start_run(side) as together:
    agents = [threading.Thread(target=agent, args=(number,)) for number in range(6)]
    for one in agents: one.start()
    for one in agents: one.join()
failures = tracker.session.guard.failures
if child:
    failures += child.wait(timeout=200)
sys.exit(failures)
"""


def test_w4_6_agents_that_log_at_once_lose_nothing(workloads: Workloads) -> None:
    program = workloads.folder / "at_once.py"
    program.write_text(_CONCURRENT)
    logged = workloads.run(program)
    runs = {r.info.run_name: r for r in logged.runs()}
    assert len(runs) == len(logged.runs()) == 2 * (1 + 6)
    traces = [t.info.trace_metadata["mlflow.sourceRun"] for t in logged.traces()]
    for side in ("parent", "child"):
        for number in range(6):
            own = runs[f"{side}-{number}"]
            assert (own.info.status, own.data.tags["agent"]) == ("FINISHED", str(number))
            history = logged.client.get_metric_history(own.info.run_id, "latency_ms")
            assert sorted((m.step, m.value) for m in history) == [(s, number + s / 10) for s in range(200)]
            together = logged.client.get_metric_history(runs[side].info.run_id, f"agent_{number}")
            assert sorted((m.step, m.value) for m in together) == [(s, s) for s in range(200)]
            assert traces.count(own.info.run_id) == 5


@pytest.fixture(scope="module")
def production() -> list[dict[str, Any]]:
    """What `mlplatform render --profile production` makes; tests/cluster tries it on a cluster."""
    text = (ROOT / "manifests" / "production" / "mlflow.yaml").read_text("utf-8")
    return [d for d in yaml.safe_load_all(text) if d]


def test_w4_7_production_has_logins_tls_to_its_database_replicas_and_an_s3_store(
    production: list[dict[str, Any]],
) -> None:
    def one(kind: str) -> Any:
        (found,) = (d for d in production if d["kind"] == kind)
        return found.get("spec")

    auth = configparser.ConfigParser()
    (text,) = (d["data"]["auth.ini"] for d in production if "auth.ini" in d.get("data", {}))
    auth.read_string(text)
    # Basic auth, or the function of an identity provider in its place: docs/serving.md.
    assert auth["mlflow"]["authorization_function"].endswith(":authenticate_request_basic_auth")
    assert auth["mlflow"]["default_permission"] == "NO_PERMISSIONS"
    pod = one("Deployment")["template"]["spec"]
    variables = {e["name"]: e.get("value") for e in pod["containers"][0]["env"]}
    assert variables["PGSSLMODE"] == "require"
    assert variables["MLFLOW_ARTIFACTS_DESTINATION"].startswith("s3://")
    assert one("HorizontalPodAutoscaler")["minReplicas"] >= 2
    assert one("PodDisruptionBudget")["maxUnavailable"] == 1
    assert {c["topologyKey"] for c in pod["topologySpreadConstraints"]} >= {"kubernetes.io/hostname"}
    assert one("Cluster")["instances"] >= 2


def test_w4_8_alerts_on_the_growth_of_artifacts_connections_and_availability(
    production: list[dict[str, Any]],
) -> None:
    """That each fires on its trouble alone is tried in tests/cluster/test_alerts.py."""
    (rules,) = (d for d in production if d["kind"] == "PrometheusRule")
    asked = {r["alert"]: r["expr"] for group in rules["spec"]["groups"] for r in group["rules"]}
    for alert, metric in {
        "MLflowVolumeFillsUp": "predict_linear",
        "MLflowVolumeNearlyFull": "kubelet_volume_stats_available_bytes",
        "MLflowDatabaseConnections": "cnpg_backends_total",
        "MLflowDown": "kube_deployment_status_replicas_available",
        "MLflowErrors": "mlflow_http_request_total",
    }.items():
        assert metric in asked[alert], alert


def test_w4_9_every_document_is_found_from_the_first_page() -> None:
    pages: dict[Path, str] = {}
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in pages:
            pages[page] = page.read_text("utf-8")
            links = re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", pages[page])
            ahead += [(page.parent / link).resolve() for link in links]
    named = {page.relative_to(ROOT).as_posix() for page in pages}
    assert {p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")} <= named
    # Architecture with a diagram; health, restore, scaling of the store, troubleshooting.
    assert "## The shape of it\n\n```text" in pages[ROOT / "README.md"]
    for page, part in {
        "developer-guide": "# Logging from a program",
        "operations": "## Store",
        "backup": "## Runbook",
        "deploy": "## Monitoring",
        "troubleshooting": "# When something was not logged",
    }.items():
        assert part in pages[ROOT / "docs" / f"{page}.md"], page


def test_w4_10_versions_of_an_agent_their_history_and_the_way_back(analytics: Workload) -> None:
    printed = analytics.printed
    assert printed["versions"] == ["1", "2", "1", "3"], "the same configuration is the same version"
    assert printed["stations"] == ["3", "2", "1"]
    assert printed["configuration"] == {"temperature": 0.1, "tools": ["search"]}
    assert printed["history"] == [
        ["1", "release 1", False],
        ["2", "release 2", False],
        ["3", "release 3", False],
        ["2", "worse", True],
        ["1", "worse", True],
    ]
    model = analytics.client.get_registered_model(f"agent-{printed['open']}")
    assert str(model.aliases["deployed"]) == "1"


def test_w4_11_a_study_is_a_run_its_trials_are_nested_and_the_best_is_chosen(analytics: Workload) -> None:
    study = analytics.run("tags.study = 'tune'")
    number, value, x = analytics.printed["best"]
    assert study.data.tags["best_trial"] == str(number)
    assert study.data.metrics["best_value"] == pytest.approx(value)
    assert study.data.metrics["trials"] == 8
    assert float(study.data.params["best_x"]) == pytest.approx(x)
    (chosen,) = json.loads(analytics.artifact(study, "best_configuration.json"))
    assert (chosen["trial"], chosen["params"]) == (number, {"x": x})
    trials = analytics.runs(f"tags.mlflow.parentRunId = '{study.info.run_id}'")
    assert len(trials) == 8
    states = {int(t.data.tags["trial"]): (t.data.tags["trial_state"], t.info.status) for t in trials}
    assert states[3] == ("pruned", "KILLED")
    assert states[4] == ("fail", "FAILED")
    assert states[number] == ("complete", "FINISHED")
    best = next(t for t in trials if t.data.tags["trial"] == str(number))
    assert best.data.metrics["value"] == pytest.approx(value)
    assert best.data.metrics["intermediate_value"] == pytest.approx(abs(x))


def test_w4_12_pictures_are_artifacts_that_a_browser_shows(analytics: Workload) -> None:
    run = opened(analytics)
    for path, said in (("causal_chain.svg", "revenue"), ("agents.svg", "planner")):
        root = ElementTree.fromstring(analytics.artifact(run, f"pictures/{path}"))  # noqa: S314 - our own
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
        assert said in texts
    page = analytics.artifact(run, "pictures/kpis.html")
    assert "1 of 1 targets met" in page
    for loaded in ("<script", "http://", "https://", "src="):
        assert loaded not in page
