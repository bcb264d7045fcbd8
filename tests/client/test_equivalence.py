"""The same program through plain HTTP and through a durable URI leaves the same on the server."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.client.programs import LOG_MODEL, Logging

pytest_plugins = ("tests.client.program_fixtures",)

#: MLflowClient's documented calls that log, one after the other; what they return is not looked at here.
_CALLS = """
from mlflow.entities import Metric, Param, RunTag
name = os.environ["EXPERIMENT"]
experiment = client.create_experiment(name, tags={"team": "search"})
client.set_experiment_tag(experiment, "stage", "dev")
mlflow.set_experiment(name)
run = client.create_run(experiment, start_time=1000, tags={"a": "1"}, run_name="first").info.run_id
client.log_metric(run, "m", 1.5, timestamp=2000, step=3)
client.log_metric(run, "m", 1.5, timestamp=2000, step=3)
client.log_metric(run, "m", float("-inf"), timestamp=2001, step=4)
client.log_param(run, "p", "x")
client.log_param(run, "p", "x")
client.set_tag(run, "t", "1")
client.set_tag(run, "t", "2")
client.set_tag(run, "gone", "1")
client.delete_tag(run, "gone")
client.log_batch(run, [Metric("b", 2.0, 3000, 1)], [Param("q", "y")], [RunTag("u", "z")])
many = [Param(f"r{i}", "") for i in range(150)]
client.log_batch(run, [Metric("c", i, 3000, i) for i in range(2500)], many)
client.log_text(run, "hello", "deep/er/file.txt")
client.log_dict(run, {"a": [1, 2]}, "d.json")
client.update_run(run, name="renamed")
client.log_inputs(run, [mlflow.entities.DatasetInput(
    mlflow.entities.Dataset("d", "0" * 8, "local", "{}", "{}", "{}"),
    [mlflow.entities.InputTag("mlflow.data.context", "eval")],
)])
client.set_terminated(run, "FAILED", end_time=5000)
parent = {"mlflow.parentRunId": run}
other = client.create_run(experiment, start_time=1001, tags=parent, run_name="other")
client.delete_run(other.info.run_id)
third = client.create_run(experiment, start_time=1002, run_name="third").info.run_id
client.delete_run(third)
client.restore_run(third)
model = client.create_logged_model(
    experiment, name="m", source_run_id=run, tags={"x": "1"}, params={"d": "3"}
)
client.set_logged_model_tags(model.model_id, {"y": "2", "z": "3"})
client.delete_logged_model_tag(model.model_id, "z")
client.log_outputs(third, [mlflow.entities.LoggedModelOutput(model.model_id, 7)])
client.log_metric(third, "acc", 0.5, timestamp=4000, step=1, model_id=model.model_id)
client.finalize_logged_model(model.model_id, "FAILED")
root = client.start_trace("traced", inputs={"x": 1}, tags={"k": "v"})
child = client.start_span("inner", root.trace_id, root.span_id, span_type="TOOL")
client.end_span(root.trace_id, child.span_id, outputs=[1])
client.end_trace(root.trace_id, outputs={"y": 2}, status="ERROR")
client.set_trace_tag(root.trace_id, "later", "w")
client.link_traces_to_run([root.trace_id], run)
"""
_READ = """
experiment = client.get_experiment_by_name(os.environ["EXPERIMENT"])
here = [experiment.experiment_id]
def history(run, key):
    found = client.get_metric_history(run.info.run_id, key)
    return sorted((m.step, m.timestamp if m.timestamp < 1e6 else 0, str(m.value)) for m in found)
def by_start(run):
    # Runs that the fluent calls make begin now and have a random name.
    own = run.info.start_time < 1e6
    return not own, run.info.run_name if own else "", run.info.start_time
def files(run_id, path=None):
    for f in client.list_artifacts(run_id, path):
        if f.is_dir:
            yield from files(run_id, f.path)
        elif f.path.endswith((".txt", ".json")):
            yield f.path, f.file_size
runs = sorted(
    client.search_runs(here, run_view_type=3), key=by_start
)
state = {"experiment": [dict(experiment.tags), experiment.artifact_location]}
tags = lambda r: {k: v for k, v in r.data.tags.items() if k not in ("mlflow.source.name", "mlflow.runName")}
state["runs"] = [
    [
        r.info.run_id, r.info.status, r.info.lifecycle_stage, r.info.artifact_uri, r.info.user_id,
        r.info.end_time is None, tags(r), r.data.params,
        r.info.run_name if r.info.start_time < 1e6 else "",
        {k: history(r, k) for k in sorted(r.data.metrics)},
        [
            (d.dataset.name, d.dataset.digest, [(t.key, t.value) for t in d.tags])
            for d in r.inputs.dataset_inputs
        ],
        [(o.model_id, o.step) for o in r.outputs.model_outputs],
        sorted(files(r.info.run_id)) if r.info.lifecycle_stage == "active" else [],
    ]
    for r in runs
]
state["models"] = [
    [m.model_id, m.name, m.status.name, m.source_run_id, m.tags, m.params, m.model_type, m.artifact_location,
     [(x.key, x.value, x.step) for x in m.metrics]]
    for m in sorted(client.search_logged_models(here), key=lambda m: m.creation_timestamp)
]
state["traces"] = [
    [t.info.state.name, dict(t.info.tags), sorted(t.info.trace_metadata), t.info.request_preview,
     [(s.name, s.span_type, s.inputs, s.outputs, s.status.status_code.name) for s in t.data.spans]]
    for t in mlflow.search_traces(locations=here, return_type="list")
]
state["linked"] = [
    t.info.request_preview for r in runs
    for t in mlflow.search_traces(run_id=r.info.run_id, locations=here, return_type="list")
]
print(json.dumps(state, sort_keys=True, default=str))
"""


def normalised(text: str) -> Any:
    """Ids replaced by the order in which they are first seen, the experiment's own by a word."""
    seen: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        return seen.setdefault(match[0], f"<{len(seen)}>")

    text = re.sub(r"\b(?:m-|tr-)?[0-9a-f]{32}\b", name, text)
    location = json.loads(text)["experiment"][1]
    text = text.replace(location, "<location>").replace(f"/{location.rpartition('/')[2]}/", "/<experiment>/")
    return json.loads(text)


@pytest.mark.parametrize("program", ["calls", "fluent"])
def test_the_server_is_left_as_by_mlflow_itself(logging_to: Logging, program: str) -> None:
    code = {"calls": _CALLS, "fluent": LOG_MODEL}[program]
    states = []
    for kind in ("plain", "durable"):
        logging_to.environment["EXPERIMENT"] += f"-{kind}"
        uri = {"MLFLOW_TRACKING_URI": logging_to.uri} if kind == "plain" else {"MLPLATFORM_STRICT": "1"}
        logging_to.run(code, **uri)
        if kind == "durable":
            assert logging_to.sync().returncode == 0, logging_to.mlplatform("spool", "quarantine").stdout
        text = logging_to.run(_READ, MLFLOW_TRACKING_URI=logging_to.uri)
        states.append(normalised(text.splitlines()[-1]))
    plain, durable = states
    for part in ("runs", "models", *(("traces", "linked") if program == "calls" else ())):
        assert plain[part], "nothing was compared"
    for part in plain:
        assert durable[part] == plain[part], part
