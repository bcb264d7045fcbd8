"""Durable URIs of a database or a folder: nobody serves, and the same arrives."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from mlflow_platform.local import Stack
from tests.client.everything import EVERYTHING
from tests.client.programs import Logging

pytest_plugins = ("tests.client.program_fixtures",)


@pytest.mark.parametrize("kind", ["sqlite", "file", "postgresql"])
def test_without_a_server_a_database_or_a_folder_takes_it(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with contextlib.ExitStack() as until:
        if kind == "postgresql":
            uri = until.enter_context(own_schema(request.getfixturevalue("stack")))
        else:
            uri = {"sqlite": f"sqlite:///{tmp_path}/mlflow.db", "file": f"file://{tmp_path}/mlruns"}[kind]
        check_without_server(uri, tmp_path, ids_are_ours=kind != "file")


def check_without_server(uri: str, tmp_path: Path, *, ids_are_ours: bool) -> None:
    # MLflow 3.17 lets its file store be used only by those who ask for it.
    logging = Logging(uri, {"EXPERIMENT": "local", "MLFLOW_ALLOW_FILE_STORE": "true"}, tmp_path / "spool")
    trace = "mlflow.trace(lambda: 1)()\n"
    logged = json.loads(logging.run(EVERYTHING + trace).splitlines()[0])
    assert logging.sync().returncode == 0, logging.mlplatform("spool", "quarantine").stdout
    look = """
experiment = client.get_experiment_by_name("local").experiment_id
runs = {r.data.tags["mlflow.runName"]: r.info.run_id for r in client.search_runs([experiment])}
steps = [m.step for m in client.get_metric_history(runs["one"], "loss")]
files = [f.path for f in client.list_artifacts(runs["one"])]
traces = mlflow.search_traces(locations=[experiment], return_type="list")
print(json.dumps([runs, steps, files, [len(t.data.spans) for t in traces]]))
"""
    runs, steps, files, spans = json.loads(logging.run(look, MLFLOW_TRACKING_URI=uri))
    logging.stop_shipper()
    assert set(runs) == {"one", "child"}
    assert (steps, files, spans) == (list(range(5)), ["b.json", "notes"], [1])
    assert (runs["one"] == logged["run"]) is ids_are_ours


@contextlib.contextmanager
def own_schema(stack: Stack) -> Iterator[str]:
    """An empty schema in the stack's database, for programs without a server."""
    where, name = stack.endpoints().database_uri.replace("+psycopg", ""), f"s{secrets.token_hex(4)}"
    with psycopg.connect(where, autocommit=True) as connection:
        connection.execute(f"create schema {name}")
        try:
            yield f"{where}{'&' if '?' in where else '?'}options=-csearch_path%3D{name}"
        finally:
            connection.execute(f"drop schema {name} cascade")
