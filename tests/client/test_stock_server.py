"""A server that knows nothing of us makes up its own ids: ours are mapped to them, wherever they stand."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.programs import LOG_MODEL, Logging
from tests.faults.proxy import Proxy, lost

pytest_plugins = ("tests.client.program_fixtures",)

#: Hides our entry points from MLflow, as on a machine where we are not installed.
_WITHOUT_US = """
import importlib.metadata as metadata
every = metadata.entry_points
metadata.entry_points = lambda **k: metadata.EntryPoints(
    e for e in every(**k) if not e.value.startswith("mlflow_platform")
)
"""


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[str]:
    """MLflow's own server on a database file; its address."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_WITHOUT_US)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MLPLATFORM_"))}
    path = os.pathsep.join(filter(None, (str(tmp_path / "site"), os.environ.get("PYTHONPATH"))))
    with (tmp_path / "stock.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", f"--port={port}", "--workers=1"),
                *("--uvicorn-opts=--loop uvloop", f"--backend-store-uri=sqlite:///{tmp_path / 'stock.db'}"),
                f"--artifacts-destination={tmp_path / 'artifacts'}",
            ],
            env={**kept, "PYTHONPATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "stock.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "stock.log").read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_on_a_stock_server_ids_are_mapped_and_nothing_is_there_twice(
    stock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to every first create is lost: what was made is found by its tag."""
    import mlflow

    host, _, port = stock.removeprefix("http://").rpartition(":")
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
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stock)
    assert lines[1:4] == ["[2.0, 4.0]", "True", "x"]
    first, (parent_name, child_name) = json.loads(lines[0]), json.loads(lines[4])
    client: Any = mlflow.MlflowClient(stock)
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
