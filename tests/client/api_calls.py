"""Every public call of `MlflowClient`, with what it returned and what it left on the server:
`python -m tests.client.api_calls STACK NAME [workspaces]`, through the MLFLOW_TRACKING_URI it has.

Prints a line of JSON a call. Everything it makes has NAME in its name.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from mlflow_platform.local import Stack
from tests.client.server_state import ServerState


class Recorder:
    """An `MlflowClient` that looks after each call what it changed, once all of it is delivered."""

    def __init__(self, state: ServerState, folder: Path) -> None:
        import mlflow

        self._client = mlflow.MlflowClient()
        self._state = state
        self._folder = str(folder)
        self._mlflow = mlflow
        self._durable = mlflow.get_tracking_uri().startswith("durable+")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._client.tracking_uri  # noqa: B018 - it is part of the interface
            returned, raised = None, None
            try:
                returned = getattr(self._client, name)(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - whatever a user would see
                raised = getattr(error, "error_code", None) or type(error).__name__
            # MLflow's own flush takes half a second, to end a thread and begin it again.
            if self._durable or kwargs.get("synchronous") is False:
                self._mlflow.flush_async_logging()
            line = {
                "call": name,
                "returned": readable(returned),
                "raised": raised,
                "changes": self._state.changes(),
            }
            print(json.dumps(line).replace(self._folder, "<folder>"), flush=True)
            return returned

        return call


def readable(value: Any) -> Any:
    """A value as JSON can hold it, as a user sees it."""
    import pandas as pd
    from mlflow.entities import Span, Trace
    from mlflow.entities._mlflow_object import _MlflowObject
    from pydantic import BaseModel

    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Iterable) and not isinstance(value, dict | _MlflowObject | pd.DataFrame | BaseModel):
        return [readable(v) for v in value]
    if isinstance(value, dict):
        return {str(k): readable(v) for k, v in value.items()}
    if isinstance(value, pd.DataFrame):
        return value.to_dict("records")
    if isinstance(value, Span):
        return value.to_dict()
    if isinstance(value, Trace):
        return {"info": value.info.to_dict(), "spans": [s.to_dict() for s in value.data.spans]}
    if dataclasses.is_dataclass(value):
        return {f.name: readable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, _MlflowObject):
        return {k: readable(v) for k, v in value}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return {"type": type(value).__name__, **{k: readable(v) for k, v in vars(value).items() if k[0] != "_"}}


def tracking(c: Any, name: str, folder: Path) -> None:
    """Experiments, runs, artifacts, logged models, traces."""
    import numpy as np
    from mlflow.entities import (
        Dataset,
        DatasetInput,
        InputTag,
        LoggedModelInput,
        LoggedModelOutput,
        Metric,
        Param,
        RunTag,
    )

    e = c.create_experiment(name, tags={"team": "search"})
    c.create_experiment(name)
    c.get_experiment(e)
    c.get_experiment_by_name(name)
    c.get_experiment_by_name(f"{name}-absent")
    c.get_experiment("999999999")
    c.set_experiment_tag(e, "stage", "dev")
    c.set_experiment_tag(e, "gone", "x")
    c.delete_experiment_tag(e, "gone")
    c.rename_experiment(e, f"{name}-renamed")
    c.rename_experiment(e, name)
    c.delete_experiment(e)
    c.restore_experiment(e)
    c.search_experiments(filter_string=f"name = '{name}'")

    run = c.create_run(e, start_time=1000, tags={"a": "one"}, run_name="first").info.run_id
    c.get_run(run)
    c.create_run(e, start_time=1001, tags={"mlflow.runName": "tagged"}, run_name="named")
    child = c.create_run(e, start_time=1002, tags={"mlflow.parentRunId": run}, run_name="child").info.run_id
    c.get_parent_run(child)
    c.get_parent_run(run)
    c.log_metric(run, "m", 1.5, timestamp=2000, step=3)
    c.log_metric(run, "m", 1.5, timestamp=2000, step=3)
    c.log_metric(run, "m", float("-inf"), timestamp=2001, step=4)
    c.log_metric(run, "nan", float("nan"), timestamp=2001, step=4)
    c.log_metric(run, "m", 2.5, timestamp=1999, step=1, synchronous=False)
    c.log_metric(run, "bad // name", 1.0)
    c.log_metric(run, "of data", 0.5, timestamp=2000, step=0, dataset_name="d", dataset_digest="0" * 8)
    c.get_metric_history(run, "m")
    c.get_metric_history(run, "absent")
    c.log_param(run, "p", "x")
    c.log_param(run, "p", "x")
    c.log_param(run, "p", "y")
    c.log_param(run, "number", 0.25, synchronous=False)
    c.log_param(run, "long", "x" * 7000)
    c.set_tag(run, "t", "one")
    c.set_tag(run, "t", "two")
    c.set_tag(run, "gone", "x", synchronous=False)
    c.delete_tag(run, "gone")
    c.delete_tag(run, "absent")
    c.log_batch(run, [Metric("b", 2.0, 3000, 1)], [Param("q", "y")], [RunTag("u", "z")])
    c.log_batch(
        run,
        [Metric("c", i, 3000, i) for i in range(1200)],
        [Param(f"r{i}", "") for i in range(150)],
        [RunTag(f"s{i}", "v") for i in range(120)],
    )
    c.log_batch(run, [Metric("d", 1.0, 3000, 1)], (), (), synchronous=False)
    c.get_run(run)
    c.update_run(run, name="renamed")
    c.update_run(run, status="SCHEDULED")
    c.update_run(run, status="RUNNING")
    data = Dataset("d", "0" * 8, "local", "{}", "{}", "{}")
    c.log_inputs(run, [DatasetInput(data, [InputTag("mlflow.data.context", "eval")])])
    c.log_inputs(run, [DatasetInput(data, [InputTag("mlflow.data.context", "eval")])])

    (folder / "below").mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "below" / "b.txt").write_text("b")
    c.log_artifact(run, str(folder / "a.txt"))
    c.log_artifact(run, str(folder / "a.txt"), "there")
    c.log_artifact(run, str(folder / "below"), "whole")
    c.log_artifacts(run, str(folder), "all")
    c.log_text(run, "hello", "deep/er/file.txt")
    c.log_dict(run, {"a": [1, 2]}, "d.json")
    c.log_dict(run, {"a": [1, 2]}, "d.yaml")
    c.log_stream(run, io.BytesIO(b"\0\1"), "bytes.bin")
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    c.log_image(run, picture, "picture.png")
    c.log_image(run, picture, key="shown", step=1, timestamp=5, synchronous=True)
    figure = plotted()
    c.log_figure(run, figure, "figure.png")
    c.log_table(run, {"question": ["why", "how"], "score": [1, 2]}, "table.json")
    c.log_table(run, {"question": ["when"], "score": [3]}, "table.json")
    c.load_table(e, "table.json", run_ids=[run])
    c.list_artifacts(run)
    c.list_artifacts(run, "deep")
    c.list_artifacts(run, "absent")
    (folder / "got").mkdir()
    c.download_artifacts(run, "deep", str(folder / "got"))
    print(json.dumps({"call": "", "text": (folder / "got" / "deep" / "er" / "file.txt").read_text()}))
    c.download_artifacts(run, "absent", str(folder / "got"))

    model = c.create_logged_model(
        e, name="m", source_run_id=run, tags={"x": "one"}, params={"depth": "3"}, model_type="agent"
    ).model_id
    c.create_logged_model(e, name="bad/name")
    c.get_logged_model(model)
    c.set_logged_model_tags(model, {"y": "two", "z": "three"})
    c.delete_logged_model_tag(model, "z")
    c.log_model_params(model, {"width": "4"})
    c.log_model_artifact(model, str(folder / "a.txt"))
    c.log_model_artifacts(model, str(folder / "below"), "below")
    c.list_logged_model_artifacts(model)
    c.list_logged_model_artifacts(model, "below")
    c.log_inputs(run, models=[LoggedModelInput(model)])
    c.log_outputs(child, [LoggedModelOutput(model, 7)])
    c.log_metric(child, "acc", 0.5, timestamp=4000, step=1, model_id=model)
    c.finalize_logged_model(model, "READY")
    c.get_logged_model(model)
    c.search_logged_models([e])
    other = c.create_logged_model(e, name="other").model_id
    c.finalize_logged_model(other, "FAILED")
    c.delete_logged_model(other)
    c.get_run(run)
    c.get_run(child)

    root = c.start_trace("traced", inputs={"x": 1}, tags={"k": "v"}, experiment_id=e, start_time_ns=10**18)
    inner = c.start_span("inner", root.trace_id, root.span_id, span_type="TOOL", start_time_ns=10**18 + 1)
    c.end_span(root.trace_id, inner.span_id, outputs=[1], end_time_ns=10**18 + 2)
    c.end_trace(root.trace_id, outputs={"y": 2}, status="ERROR", end_time_ns=10**18 + 3)
    c.get_trace(root.trace_id, display=False)
    c.get_trace("tr-" + "0" * 32, display=False)
    c.set_trace_tag(root.trace_id, "later", "w")
    c.set_trace_tag(root.trace_id, "gone", "w")
    c.delete_trace_tag(root.trace_id, "gone")
    c.delete_trace_tag(root.trace_id, "absent")
    c.link_traces_to_run([root.trace_id], run)
    c.search_traces(locations=[e])
    c.search_traces(locations=[e], run_id=run)
    c.unlink_traces_from_run([root.trace_id], run)
    second = c.start_trace("second", experiment_id=e, run_id=run, start_time_ns=10**18 + 5)
    c.end_trace(second.trace_id, end_time_ns=10**18 + 6)
    c.delete_traces(e, trace_ids=[second.trace_id])

    prompts(c, name, run, model, root.trace_id)
    registry(c, name, run, model)

    c.set_terminated(run, "FAILED", end_time=5000)
    c.set_terminated(child, end_time=5001)
    c.delete_run(child)
    c.log_metric(child, "late", 1.0)
    c.restore_run(child)
    c.search_runs([e], order_by=["start_time"])
    c.search_runs([e], "metrics.m > 1", max_results=1)
    c.get_run(child)
    c.get_run("0" * 32)
    evaluation(c, name, e)


def plotted() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(1, 1))
    axes.plot([1, 2])
    return figure


def prompts(c: Any, name: str, run: str, model: str, trace: str) -> None:
    c.create_prompt(f"{name}-prompt", description="asks", tags={"team": "search"})
    c.create_prompt_version(f"{name}-prompt", "Hello {{ name }}", description="first", tags={"v": "one"})
    version = c.register_prompt(f"{name}-prompt", "Hi {{ name }}", commit_message="second")
    c.get_prompt(f"{name}-prompt")
    c.get_prompt(f"{name}-absent")
    c.get_prompt_version(f"{name}-prompt", 1)
    c.set_prompt_alias(f"{name}-prompt", "live", 2)
    c.get_prompt_version_by_alias(f"{name}-prompt", "live")
    c.load_prompt(f"prompts:/{name}-prompt@live")
    c.load_prompt(f"{name}-absent", allow_missing=True)
    c.parse_prompt_uri(f"prompts:/{name}-prompt/1")
    c.set_prompt_tag(f"{name}-prompt", "k", "v")
    c.delete_prompt_tag(f"{name}-prompt", "k")
    c.set_prompt_version_tag(f"{name}-prompt", 1, "k", "v")
    c.delete_prompt_version_tag(f"{name}-prompt", 1, "k")
    c.search_prompts(f"name = '{name}-prompt'")
    c.search_prompt_versions(f"{name}-prompt")
    c.link_prompt_version_to_run(run, f"prompts:/{name}-prompt/2")
    c.link_prompt_version_to_model(f"{name}-prompt", "2", model)
    c.link_prompt_versions_to_trace([version], trace)
    c.list_logged_prompts(run)
    c.detach_prompt_from_run(run, f"prompts:/{name}-prompt/2")
    c.delete_prompt_alias(f"{name}-prompt", "live")
    c.delete_prompt_version(f"{name}-prompt", "1")
    c.delete_prompt_version(f"{name}-prompt", "2")
    c.delete_prompt(f"{name}-prompt")


def registry(c: Any, name: str, run: str, model: str) -> None:
    c.create_registered_model(name, tags={"a": "b"}, description="first")
    c.create_registered_model(name)
    c.update_registered_model(name, description="second")
    c.rename_registered_model(name, f"{name}-model")
    name = f"{name}-model"
    c.get_registered_model(name)
    c.search_registered_models(f"name = '{name}'")
    c.set_registered_model_tag(name, "k", "v")
    c.delete_registered_model_tag(name, "k")
    c.create_model_version(name, f"runs:/{run}/deep", run, tags={"x": "y"}, description="of a run")
    c.create_model_version(name, f"models:/{model}", model_id=model)
    c.update_model_version(name, "1", "better")
    c.set_model_version_tag(name, "1", "k", "v")
    c.delete_model_version_tag(name, "1", "k")
    c.get_model_version(name, "1")
    c.get_model_version(name, "99")
    c.get_model_version_download_uri(name, "1")
    c.get_model_version_stages(name, "1")
    c.transition_model_version_stage(name, "1", "Staging")
    c.get_latest_versions(name)
    c.search_model_versions(f"name = '{name}'", order_by=["version_number"])
    c.set_registered_model_alias(name, "champion", "2")
    c.get_model_version_by_alias(name, "champion")
    c.delete_registered_model_alias(name, "champion")
    c.copy_model_version(f"models:/{name}/1", f"{name}-copy")
    c.delete_model_version(name, "1")
    c.delete_registered_model(name)
    c.delete_registered_model(f"{name}-copy")


def evaluation(c: Any, name: str, experiment: str) -> None:
    """Evaluation datasets, webhooks, servers of the Model Context Protocol."""
    other = c.create_experiment(f"{name}-other")
    data = c.create_dataset(name, experiment, {"a": "b"}).dataset_id
    c.get_dataset(data)
    c.search_datasets([experiment])
    c.set_dataset_tags(data, {"c": "d"})
    c.delete_dataset_tag(data, "c")
    c.add_dataset_to_experiments(data, [other])
    c.remove_dataset_from_experiments(data, [other])
    c.delete_dataset(data)
    with receiver() as url:
        hook = c.create_webhook(name, url, ["model_version.created"], secret="shared").webhook_id
        c.get_webhook(hook)
        c.list_webhooks()
        c.update_webhook(hook, description="tells")
        c.test_webhook(hook)
        c.delete_webhook(hook)
    server = f"org.example/{name}"
    c.create_mcp_server(server, description="tools")
    c.get_mcp_server(server)
    c.update_mcp_server(server, display_name="Tools")
    c.set_mcp_server_tag(server, "k", "v")
    c.delete_mcp_server_tag(server, "k")
    c.create_mcp_server_version({"name": server, "version": "1.0.0", "description": "first"}, tools=None)
    c.get_mcp_server_version(server, "1.0.0")
    c.update_mcp_server_version(server, "1.0.0", status=active())
    c.get_latest_mcp_server_version(server)
    c.set_mcp_server_version_tag(server, "1.0.0", "k", "v")
    c.delete_mcp_server_version_tag(server, "1.0.0", "k")
    c.set_mcp_server_alias(server, "live", "1.0.0")
    c.get_mcp_server_version_by_alias(server, "live")
    c.search_mcp_servers(f"name = '{server}'")
    c.search_mcp_server_versions(server)
    endpoint = c.create_mcp_access_endpoint(server, "https://tools.example.com/mcp", server_version="1.0.0")
    endpoint = getattr(endpoint, "endpoint_id", getattr(endpoint, "id", ""))
    c.get_mcp_access_endpoint(server, endpoint)
    c.update_mcp_access_endpoint(server, endpoint, url="https://tools.example.com/other")
    c.search_mcp_access_endpoints(server)
    c.delete_mcp_access_endpoint(server, endpoint)
    c.delete_mcp_server_alias(server, "live")
    c.delete_mcp_server_version(server, "1.0.0")
    c.delete_mcp_server(server)


def active() -> Any:
    from mlflow.entities.mcp_server import MCPStatus

    return MCPStatus.ACTIVE


def workspaces(c: Any, name: str, _: Path) -> None:
    """What needs a server with workspaces."""
    c.get_workspace_store_uri()
    c.create_workspace(name, description="first")
    c.create_workspace(name)
    c.get_workspace(name)
    c.update_workspace(name, description="second")
    c.list_workspaces()
    c.delete_workspace(name)
    c.get_workspace(name)


@contextmanager
def receiver() -> Iterator[str]:
    """A server that says yes to every webhook."""

    class Yes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Yes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def main(data: str, name: str, part: str = "tracking") -> None:
    program = {"tracking": tracking, "workspaces": workspaces}[part]
    with tempfile.TemporaryDirectory() as folder:
        state = ServerState(Stack(Path(data)).endpoints())
        program(Recorder(state, Path(folder)), name, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
