"""W5, the content pipeline: one parent run a job, one nested run a stage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from http import HTTPStatus
from pathlib import Path

import pytest

from mlflow_platform.local import Stack
from tests.workloads.ran import Workload, Workloads

pytest_plugins = ("tests.workloads.fixtures",)


@pytest.fixture(scope="module")
def pipeline(workloads: Workloads) -> Workload:
    return workloads.run("pipeline.py")


def test_w5_1_a_job_is_a_run_and_its_stages_are_nested_in_it(pipeline: Workload) -> None:
    assert pipeline.printed == {"failures": 0}
    assert "mlflow_platform" not in pipeline.warnings
    first = pipeline.run("tags.job_id = 'job-1'")
    assert (first.info.run_name, first.info.status) == ("job-job-1", "FINISHED")
    assert first.data.params == {"depth": "2"}
    stage = pipeline.run(f"tags.mlflow.parentRunId = '{first.info.run_id}'")
    assert (stage.info.run_name, stage.data.tags["stage"]) == ("retrieve", "retrieve")
    assert pipeline.artifact(first, "notes/summary.md") == "# Notes"
    assert json.loads(pipeline.artifact(first, "evidence.json"))["score"] == "NaN"
    assert pipeline.run("tags.job_id = 'job-3'").info.status == "FAILED"


def test_w5_1_jobs_that_take_turns_in_one_thread_do_not_mix(pipeline: Workload) -> None:
    for name in ("left", "right"):
        mine = pipeline.run(f"tags.job_id = '{name}'")
        assert set(mine.data.metrics) == {name, "latency_seconds"}
        assert len(pipeline.client.get_metric_history(mine.info.run_id, name)) == 3
        stage = pipeline.run(f"tags.mlflow.parentRunId = '{mine.info.run_id}'")
        assert stage.data.params == {"of": name}


def test_w5_2_tags_can_be_filtered_by(pipeline: Workload) -> None:
    (first,) = pipeline.runs("tags.outcome = 'success' AND tags.domain = 'example.com'")
    tags = first.data.tags
    assert {k: tags[k] for k in ("job_id", "channel_id", "message_ts", "target_url", "adapter_name")} == {
        "job_id": "job-1",
        "channel_id": "C42",
        "message_ts": "170000001.5",
        "target_url": "https://example.com/it's",
        "adapter_name": "web",
    }
    assert [r.data.tags["job_id"] for r in pipeline.runs("tags.outcome = 'gate_failed'")] == ["job-2"]
    assert [r.data.tags["job_id"] for r in pipeline.runs("tags.outcome = 'error'")] == ["job-3"]


def test_w5_3_metrics_and_artifacts_of_a_job(pipeline: Workload) -> None:
    second = pipeline.run("tags.job_id = 'job-2'")
    assert second.data.metrics["gate_failures"] == 1
    stage = pipeline.run(f"tags.mlflow.parentRunId = '{second.info.run_id}'")
    assert stage.data.metrics["snippet_count"] == 1
    assert stage.data.metrics["tool_call_count"] == 3
    assert 0 < stage.data.metrics["latency_seconds"] < second.data.metrics["latency_seconds"]
    listed = {f.path for f in pipeline.client.list_artifacts(second.info.run_id)}
    assert listed == {"evidence.json", "analysis_result.json", "slack_payload.json", "notes"}
    assert json.loads(pipeline.artifact(second, "slack_payload.json")) == {"text": "done"}
    assert json.loads(pipeline.artifact(second, "analysis_result.json")) == {"summary": "ünïcode"}


def test_w5_4_spans_of_retrieval_language_model_and_gates(pipeline: Workload) -> None:
    stages = {r.info.run_id for r in pipeline.runs("tags.stage = 'retrieve'")}
    traces = pipeline.traces()
    assert {t.info.trace_metadata["mlflow.sourceRun"] for t in traces} == stages
    (first,) = (t for t in traces if t.data.spans[0].inputs == {"job": 1})
    spans = {s.name: s for s in first.data.spans}
    kinds = {name: s.span_type for name, s in spans.items()}
    assert kinds == {
        "pipeline": "CHAIN",
        "retrieval": "RETRIEVER",
        "rerank": "RERANKER",
        "llm": "LLM",
        "quality_gates": "EVALUATOR",
    }
    assert spans["pipeline"].outputs == {"passed": True}
    found = spans["retrieval"]
    assert found.inputs == {"query": "what changed?"}
    assert [(d["id"], d["metadata"]["score"]) for d in found.outputs] == [("d0", 1.0), ("d1", 0.9)]
    assert found.attributes["context"] == "text 1 text 0"
    assert [d["id"] for d in spans["rerank"].outputs] == ["d1", "d0"]
    assert spans["rerank"].parent_id == found.span_id
    call = spans["llm"]
    assert (call.inputs, call.outputs) == ({"prompt": "Summarise."}, "All is well.")
    assert call.attributes["total_tokens"] == 15
    assert first.info.token_usage == {"input_tokens": 11, "output_tokens": 4, "total_tokens": 15}
    assert [g["passed"] for g in spans["quality_gates"].outputs["gates"]] == [True, True]


_OFF = """
import sys
from mlflow_platform.client import MLflowTracer, MLflowTracker
tracker, tracer = MLflowTracker(), None
tracer = MLflowTracer(tracker)
with tracker.start_job_run("1") as run, tracker.start_nested_run("stage"):
    tracker.log_metrics({"m": 1})
    tracker.log_artifact("absent")
    if "traced" not in sys.argv:
        with tracer.span("s") as span, tracer.trace_llm_call("m", "p") as call:
            call.answered("x", prompt_tokens=1, completion_tokens=1)
        with tracer.trace_quality_gates() as gates:
            gates.gate("a", False)
        assert gates.failures == 1
assert run.run_id is None
assert "mlflow" not in sys.modules, "MLflow was imported"
"""


def test_w5_5_each_half_can_be_switched_off_and_then_mlflow_is_not_imported(
    workloads: Workloads,
) -> None:
    program = workloads.folder / "off.py"
    program.write_text(_OFF)
    done = workloads.run_plain(
        [sys.executable, str(program)], MLFLOW_ENABLE_TRACKING="false", MLFLOW_ENABLE_TRACING="false"
    )
    assert (done.returncode, done.stderr) == (0, "")
    # One half off: nothing of it imports MLflow while the other is not used.
    done = workloads.run_plain([sys.executable, str(program), "traced"], MLFLOW_ENABLE_TRACKING="0")
    assert (done.returncode, done.stderr) == (0, "")


def test_w5_5_with_tracking_off_traces_are_there_without_runs(workloads: Workloads) -> None:
    traced = workloads.run("pipeline.py", MLFLOW_ENABLE_TRACKING="false")
    assert traced.runs() == []
    assert len(traced.traces()) == 3


def test_w5_5_with_tracing_off_runs_are_there_without_traces(workloads: Workloads) -> None:
    tracked = workloads.run("pipeline.py", MLFLOW_ENABLE_TRACING="false")
    assert len(tracked.runs("tags.job_id LIKE 'job-%'")) == 3
    assert tracked.traces() == []


def test_w5_5_a_switch_that_is_neither_is_one_warning_and_everything_is_off(workloads: Workloads) -> None:
    program = workloads.folder / "off.py"
    program.write_text(_OFF)
    done = workloads.run_plain([sys.executable, str(program)], MLFLOW_ENABLE_TRACKING="perhaps")
    assert done.returncode == 0, done.stderr
    (warning,) = done.stderr.splitlines()
    assert "MLFLOW_ENABLE_TRACKING='perhaps' is neither true nor false" in warning


def test_w5_6_the_local_server_starts_stops_and_is_cleaned_up_by_command(
    stack: Stack, tmp_path: Path
) -> None:
    """Beside another stack, and programs with the names of its servers: nothing is killed by name."""
    folder = tmp_path / "local"

    def mlplatform(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mlflow_platform.cli", *arguments, "--data", str(folder), "--json"],
            capture_output=True,
            text=True,
        )

    def is_up(uri: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{uri.removeprefix('http://')}/health", timeout=10) as answer:
                return bool(answer.status == HTTPStatus.OK)
        except OSError:
            return False

    others = {p.name: p.pid for p in stack.status().processes}
    sleep = shutil.which("sleep")
    namesakes = [
        subprocess.Popen([name, "3600"], executable=sleep) for name in ("mlflow", "postgres", "weed")
    ]
    try:
        began = mlplatform("up", "--port", "0")
        assert began.returncode == 0, began.stderr
        uri = json.loads(began.stdout)["uri"]
        told = mlplatform("status")
        assert (told.returncode, json.loads(told.stdout)["healthy"]) == (0, True)
        assert is_up(uri)
        # What status says is so: without its server it is not healthy.
        (server,) = (p["pid"] for p in json.loads(told.stdout)["processes"] if p["name"] == "mlflow")
        os.kill(server, signal.SIGKILL)
        died = mlplatform("status")  # its next start takes longer than to ask
        assert (died.returncode, json.loads(died.stdout)["healthy"]) == (1, False)
        ended = mlplatform("down")
        assert ended.returncode == 0, ended.stderr
        assert not is_up(uri)
        assert mlplatform("status").returncode == 1
        assert (folder / "postgres" / "data" / "PG_VERSION").is_file(), "down keeps the data"
        cleaned = mlplatform("reset", "--yes")
        assert cleaned.returncode == 0, cleaned.stderr
        assert not folder.exists()
        assert [n.poll() for n in namesakes] == [None] * 3
        assert {p.name: p.pid for p in stack.status().processes} == others
        assert stack.status().healthy
    finally:
        mlplatform("reset", "--yes")
        for namesake in namesakes:
            namesake.kill()
            namesake.wait()
