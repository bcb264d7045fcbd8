"""W1, the research runtime: DSPy agents that answer questions over ontologies."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import pytest

from tests.workloads.ran import Workload, Workloads

pytest_plugins = ("tests.workloads.fixtures",)

_QUESTION = "What is an activity in PROV?"


@pytest.fixture(scope="module")
def research(workloads: Workloads) -> Workload:
    return workloads.run("research.py")


def asked(research: Workload) -> Any:
    return research.client.get_run(research.printed["run"])


def test_w1_1_one_call_configures_dspy(research: Workload) -> None:
    assert research.printed["failures"] == 0
    roots = [t.data.spans[0] for t in research.traces()]
    # One of the question, three of the evaluation; the compilation's are off.
    assert len(roots) == 4
    assert {r.name for r in roots} == {"ChainOfThought.forward"}
    # Records of the evaluation, in the run around it, and of the compilation, in a run of its own.
    evaluated = research.client.get_run(research.printed["evaluation"])
    assert evaluated.data.metrics["eval"] == pytest.approx(research.printed["score"])
    (compiled,) = (
        r
        for r in research.runs()
        if r.info.run_id not in (asked(research).info.run_id, evaluated.info.run_id)
    )
    assert {f.path for f in research.client.list_artifacts(compiled.info.run_id)} >= {
        "best_model.json",
        "trainset.json",
    }
    assert research.printed["demos"] > 0


def test_w1_2_tracking_uri_experiment_and_run_name_are_arguments(workloads: Workloads) -> None:
    program = workloads.folder / "beside.py"
    program.write_text(_BESIDE)
    data = workloads.folder / "data"
    data.mkdir()
    done = workloads.run_plain([sys.executable, str(program), str(data)])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "ontology-queries": [f"prov-{_digest()}", "mine"],
        "other": ["named"],
    }


def _digest() -> str:
    return hashlib.sha256(b"q").hexdigest()[:8]


#: A database beside the data works as a server does.
_BESIDE = """
import json, sys
from mlflow_platform.client import ResearchTracker
uri = f"sqlite:///{sys.argv[1]}/mlflow.db"
first = ResearchTracker(uri)
with first.start_query_run("prov", "q"):
    first.log_outcome(iteration_count=1, converged=False)
with first.start_query_run("prov", "q", run_name="mine"):
    pass
second = ResearchTracker(uri, "other")
with second.start_query_run("prov", "q", run_name="named"):
    pass
# Runs of the first go where it was told, although the second is the one that MLflow is set to.
import mlflow
client = mlflow.MlflowClient(uri)
found = {}
for name in ("ontology-queries", "other"):
    of = client.get_experiment_by_name(name).experiment_id
    found[name] = [r.info.run_name for r in client.search_runs([of], order_by=["start_time"])]
print(json.dumps(found))
"""


def test_w1_3_params_metrics_and_tags_have_their_exact_names(research: Workload) -> None:
    run = asked(research)
    assert run.data.params == {
        "ontology": "data/prov.ttl",
        "query": _QUESTION,
        "max_iterations": "5",
        "model": "fake-1",
        "k": "3",
    }
    metrics = dict(run.data.metrics)
    assert metrics.pop("latency_seconds") > 0
    assert metrics == {"iteration_count": 2, "converged": 1, "memories_retrieved": 1}
    tags = {k: run.data.tags[k] for k in ("ontology_name", "query_type", "has_memory")}
    assert tags == {"ontology_name": "prov", "query_type": "definition", "has_memory": "true"}
    assert len(research.runs("params.ontology = 'data/prov.ttl' AND metrics.converged = 1")) == 1


def test_w1_4_artifacts_have_their_places(research: Workload) -> None:
    run = asked(research)
    kept = {
        "trajectories/trajectory.json": '"action": "answer"',
        "memories/memory_pack.json": "activities take time",
        "ontologies/prov.ttl": "@prefix prov:",
        "query.sparql": "SELECT ?a",
        "evidence.json": research.printed["answer"],
    }
    for path, text in kept.items():
        assert text in research.artifact(run, path), path


#: A program that works; what it is told about tracking does not.
_WORK = """
import json, sys
try:
    from mlflow_platform.client import MLflowTracer, ResearchTracker
    tracker = ResearchTracker(events="work.jsonl")
    tracer = MLflowTracer(tracker)
    {sabotage}
    with tracker.start_query_run("prov", "q") as run, tracer.span("work") as span:
        result = sum(range(10))
        tracker.log_outcome(iteration_count=1, converged=True)
        tracker.log_evidence({{"of": result}})
        tracker.log_artifact("absent.txt")
        span.set_outputs(result)
    print(result)
except Exception:
    import traceback
    traceback.print_exc()
    raise SystemExit("the work was broken")
"""
_SABOTAGE = {
    "absent": "sys.modules['mlflow'] = None",
    "misconfigured": "",
    "down": "",
    "raising": "import mlflow; mlflow.MlflowClient.create_run = mlflow.start_span = None",
}


@pytest.mark.parametrize("how", _SABOTAGE)
def test_w1_5_tracking_never_breaks_the_work(workloads: Workloads, how: str) -> None:
    program = workloads.folder / f"{how}.py"
    program.write_text(_WORK.format(sabotage=_SABOTAGE[how]))
    uri = {"misconfigured": "htp://nowhere"}.get(how, "http://127.0.0.1:9")
    events = workloads.folder / "work.jsonl"
    events.unlink(missing_ok=True)
    variables = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true", "MLPLATFORM_OFFLINE": "1"}
    done = workloads.run_plain([sys.executable, str(program)], **variables)
    assert (done.returncode, done.stdout) == (0, "45\n"), done.stderr
    warned = [line for line in done.stderr.splitlines() if "not logged" in line]
    assert len(warned) == 1, done.stderr
    assert "Traceback" not in done.stderr
    written = [json.loads(line)["event"] for line in events.read_text("utf-8").splitlines()]
    assert written[0] == "start_run"
    assert "log_metrics" in written


#: Values that raise when they are looked at.
_AWKWARD = """
import asyncio
from mlflow_platform.client import AsyncMLflowTracker, MLflowTracer, MLflowTracker
class Silent:
    def __str__(self): raise RuntimeError("has no words")
class Nothing: pass
round_and_round = []
round_and_round.append(round_and_round)
tracker = MLflowTracker()
tracer = MLflowTracer(tracker)
with tracker.start_job_run("1", tags={"of": Silent()}) as run:
    for awkward in ({"of": Silent()}, None):
        run.log_params(awkward)
        tracker.set_tags(awkward)
    run.log_metrics(None)
    run.log_metrics({"of": "no number"})
    run.log_dict_artifact(round_and_round, "round.json")
    with tracer.trace_retrieval("q") as search:
        search.found([Nothing()])
        search.reranked(Nothing())
        search.context(None)
    with tracer.trace_llm_call("m", "p") as call:
        call.answered("a", prompt_tokens=1, completion_tokens="2")
async def optimise():
    of = AsyncMLflowTracker(tracker=tracker)
    async with of.start_run("program", "1"):
        await of.log_training_data([Nothing()])
        await of.log_key_improvements(None)
        await of.log_algorithm_parameters(None)
asyncio.run(optimise())
print(tracker.session.guard.failures)
"""


def test_w1_5_values_that_cannot_be_logged_do_not_break_the_work(workloads: Workloads) -> None:
    variables = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = workloads.run_plain([sys.executable, "-c", _AWKWARD], **variables, MLPLATFORM_OFFLINE="1")
    assert (done.returncode, done.stdout) == (0, "15\n"), done.stderr
    assert done.stderr.count("not logged") == 1, done.stderr


def test_w1_6_every_event_is_a_line_of_a_file_too(research: Workload) -> None:
    lines = (research.folder / "research.jsonl").read_text("utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    mine = [e for e in events if e["run_id"] == research.printed["run"]]
    assert [e["event"] for e in mine] == [
        "start_run",
        "log_params",
        "log_metrics",
        "log_dict_artifact",
        "log_dict_artifact",
        "log_artifact",
        "log_text_artifact",
        "log_dict_artifact",
        "log_metrics",
        "end_run",
    ]
    assert mine[2]["metrics"] == {"iteration_count": 2, "converged": 1, "memories_retrieved": 1}
    assert mine[-1]["status"] == "FINISHED"
