"""A server that knows nothing of us makes up its own ids: ours are mapped to them, wherever they stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.client.programs import LOG_MODEL, Logging
from tests.client.stock_server import StockServer
from tests.faults.proxy import Proxy, lost

pytest_plugins = ("tests.client.program_fixtures",)


def test_on_a_stock_server_ids_are_mapped_and_nothing_is_there_twice(
    stock: StockServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to every first create is lost: what was made is found by its tag."""
    import mlflow

    host, _, port = stock.uri.removeprefix("http://").rpartition(":")
    with Proxy((host, int(port))) as proxy:
        for path in ("runs/create", "logged-models", "runs/log-batch", "experiments/create", "runs/outputs"):
            proxy.on(path, lost)
        logging = Logging(proxy.uri, {"EXPERIMENT": "stock"}, tmp_path / "spool")
        program = """
import mlflow.artifacts
with mlflow.start_run() as parent:
    mlflow.log_text("x", "a.txt")
    with mlflow.start_run(nested=True) as child:
        mlflow.log_metric("m", 1.0)
@mlflow.trace
def answer(): return 42
with mlflow.start_run(run_id=child.info.run_id):
    answer()
mlflow.flush_async_logging()
print(client.get_run(parent.info.run_id).data.tags["mlflow.runName"] == parent.info.run_name)
print(mlflow.artifacts.load_text(f"runs:/{parent.info.run_id}/a.txt"))
print(json.dumps([parent.info.run_name, child.info.run_name]))
"""
        lines = logging.run(LOG_MODEL + program, "load").splitlines()
        assert logging.sync().returncode == 0
        logging.stop_shipper()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stock.uri)
    assert lines[1:4] == ["[2.0, 4.0]", "True", "x"]
    first, (parent_name, child_name) = json.loads(lines[0]), json.loads(lines[4])
    client: Any = mlflow.MlflowClient(stock.uri)
    experiment = client.get_experiment_by_name("stock").experiment_id
    runs = {r.data.tags["mlplatform.id"]: r for r in client.search_runs([experiment])}
    names = {r.info.run_name: r for r in runs.values()}
    assert len(runs) == len(names) == 3
    assert names[child_name].data.tags["mlflow.parentRunId"] == names[parent_name].info.run_id
    (model,) = client.search_logged_models([experiment])
    assert model.tags["mlplatform.id"] == first["model"]
    run = runs[first["run"]]
    assert model.source_run_id == run.info.run_id != first["run"]
    assert [m.value for m in model.metrics] == [0.9]
    assert [o.model_id for o in run.outputs.model_outputs] == [model.model_id]
    path = mlflow.artifacts.download_artifacts(f"{model.artifact_location}/MLmodel")
    content = Path(path).read_text()
    assert model.model_id in content
    assert run.info.run_id in content
    assert first["model"] not in content
    assert first["run"] not in content
    (trace,) = mlflow.search_traces(locations=[experiment], return_type="list")
    assert trace.info.trace_metadata["mlflow.sourceRun"] == names[child_name].info.run_id
