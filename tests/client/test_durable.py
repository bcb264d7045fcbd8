"""Programs that use nothing but MLflow's own API, through a durable URI, against the real stack: what they
log is there afterwards, once, under the ids that they saw."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.client.everything import EVERYTHING, check_everything
from tests.client.programs import Logging
from tests.faults.proxy import Proxy, lost, refused_by_reset

pytest_plugins = ("tests.client.program_fixtures",)


def test_what_a_program_logs_is_on_the_server_with_the_ids_it_saw(logging_to: Logging, plain: Any) -> None:
    logged = json.loads(logging_to.run(EVERYTHING))
    assert logging_to.sync().returncode == 0
    check_everything(plain, logged)
    assert plain.get_run(logged["run"]).info.artifact_uri == logged["uri"]
    assert "WARNING" not in logging_to.warnings
    assert "mlflow_platform" not in logging_to.warnings
    status = logging_to.mlplatform("spool", "status", "--json")
    assert status.returncode == 0
    (state,) = json.loads(status.stdout)["spools"]
    assert (state["records"], state["quarantined"], state["refused"], state["damaged_bytes"]) == (0, 0, 0, 0)
    events = [json.loads(line)["op"] for line in logging_to.spool.events.read_text().splitlines()]
    assert events[0] == "create_run"
    assert events.count("create_run") == 2


_TRIED = """
tried = []
class Finder:
    def find_spec(self, name, path=None, target=None):
        tried.append(name)
def calls():
    tried.clear()
    with mlflow.start_run() as run:
        mlflow.log_metric("m", 1.0)
        mlflow.set_tag("t", "v")
    return run
calls()
sys.meta_path.insert(0, Finder())
run = calls()
print(json.dumps([tried, client.get_run(run.info.run_id).data.tags]))
"""


def test_what_is_not_installed_is_not_looked_for_at_each_call(logging_to: Logging) -> None:
    """MLflow's own client does, for Spark and Databricks, and finds the same tags."""
    tried, tags = json.loads(logging_to.run(_TRIED, MLPLATFORM_OFFLINE="1"))
    assert tried == []
    plainly = {"MLFLOW_TRACKING_URI": logging_to.uri}
    theirs, their_tags = json.loads(logging_to.run(_TRIED, **plainly))
    assert {"dbruntime", "pyspark"} <= set(theirs)
    # Nor for IPython, which is here or not; a program that has imported it may run in a notebook.
    notebook = """
import sys, types
names = {"__vsc_ipynb_file__": "/home/ann/tuning.ipynb"}
shell = types.SimpleNamespace(kernel=None, user_ns=names, ns_table={"user_global": names})
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
"""
    _, noted = json.loads(logging_to.run(notebook + _TRIED, MLPLATFORM_OFFLINE="1"))
    assert noted["mlflow.source.name"] == "tuning.ipynb"
    assert tags.keys() == their_tags.keys()
    # On Databricks it is asked as before.
    there, _ = json.loads(logging_to.run(_TRIED, MLPLATFORM_OFFLINE="1", DATABRICKS_RUNTIME_VERSION="15.4"))
    assert "dbruntime" in there


def test_what_another_package_tells_of_databricks_is_asked_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking.context import registry as contexts
    from mlflow.tracking.context.default_context import DefaultRunContext
    from mlflow.tracking.default_experiment import registry as experiments
    from mlflow.tracking.request_header import registry as headers

    from mlflow_platform.client import plugin

    theirs = type("Theirs", (DefaultRunContext,), {"__module__": "company.databricks_context"})()
    of_runs = contexts._run_context_provider_registry
    for registry in (
        of_runs,
        experiments._default_experiment_provider_registry,
        headers._request_header_provider_registry,
    ):
        monkeypatch.setattr(registry, "_registry", [*registry._registry, theirs])
    plugin._ask_databricks_only_there()
    assert theirs in of_runs._registry
    left = {type(p).__module__.rpartition(".")[2] for p in of_runs._registry}
    assert "git_context" in left
    assert "databricks_notebook_context" not in left


def test_children_of_a_fork_and_of_a_shell_log_to_the_same_run(
    proxied: tuple[Logging, Proxy], plain: Any
) -> None:
    logging, proxy = proxied
    proxy.on("", refused_by_reset, times=-1)
    program = """
import subprocess
with mlflow.start_run() as run:
    mlflow.log_metric("m", 0, step=0)
    child = os.fork()
    if not child:
        mlflow.log_metric("m", 1, step=1, run_id=run.info.run_id)
        os._exit(0)
    os.waitpid(child, 0)
    code = "import mlflow, sys; mlflow.log_metric('m', 2, step=2, run_id=sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, run.info.run_id], check=True)
print(run.info.run_id)
"""
    run_id = logging.run(program, MLPLATFORM_OFFLINE="1")
    proxy._rules.clear()
    assert logging.sync().returncode == 0
    assert [m.step for m in plain.get_metric_history(run_id, "m")] == [0, 1, 2]
    assert plain.get_run(run_id).info.status == "FINISHED"


def test_logging_to_a_run_of_another_program_by_its_id_asks_nobody_each_time(
    proxied: tuple[Logging, Proxy], plain: Any
) -> None:
    """MLflow looks a run up each time that it is given one; then without a server, and a run of nobody's."""
    logging, proxy = proxied
    make = """
with mlflow.start_run() as run: mlflow.log_metric("m", 0, step=0)
print(run.info.run_id)
"""
    log = """
for i in range(1, 200): mlflow.log_metric("m", i, step=i, run_id=sys.argv[1])
mlflow.log_metrics({"n": 1.0}, run_id=sys.argv[1])
"""
    run_id = logging.run(make).splitlines()[-1]
    assert logging.sync().returncode == 0
    logging.stop_shipper()
    asked = proxy.count("runs/get")
    # It has ended, so this machine has forgotten it: it is asked for once.
    logging.run(log, run_id)
    assert proxy.count("runs/get") == asked + 1
    proxy.on("", refused_by_reset, times=-1)
    logging.run(log, run_id)
    logging.run(log, "f" * 32)
    proxy._rules.clear()
    logging.sync()
    assert sorted({m.step for m in plain.get_metric_history(run_id, "m")}) == list(range(200))
    assert plain.get_run(run_id).data.metrics["n"] == 1.0


def test_a_run_can_be_resumed_deleted_and_restored(logging_to: Logging, plain: Any) -> None:
    program = """
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run() as run:
    mlflow.log_param("a", 1)
with mlflow.start_run(run_id=run.info.run_id) as again:
    mlflow.log_param("b", 2)
with mlflow.start_run() as other:
    pass
client.delete_run(other.info.run_id)
with mlflow.start_run() as third:
    pass
client.delete_run(third.info.run_id)
client.restore_run(third.info.run_id)
print(run.info.run_id, other.info.run_id, third.info.run_id)
"""
    first, other, third = logging_to.run(program).split()
    assert logging_to.sync().returncode == 0
    assert plain.get_run(first).data.params == {"a": "1", "b": "2"}
    assert plain.get_run(other).info.lifecycle_stage == "deleted"
    assert plain.get_run(third).info.lifecycle_stage == "active"
    assert not list(logging_to.spool.runs.iterdir()), "nothing is remembered of runs that ended"


def test_traces_arrive_with_their_spans_tags_and_run(proxied: tuple[Logging, Proxy], plain: Any) -> None:
    logging, proxy = proxied
    proxy.on("v1/traces", lost)
    proxy.on("mlflow/traces", lost)
    program = """
mlflow.set_experiment(os.environ["EXPERIMENT"])
@mlflow.trace(span_type="CHAIN")
def answer(question):
    with mlflow.start_span("retrieve", span_type="RETRIEVER") as span:
        span.set_inputs({"query": question})
        span.set_outputs([{"page_content": "x", "metadata": {"score": 0.5}}])
    mlflow.update_current_trace(tags={"brand": "aurora"})
    return question.upper()
with mlflow.start_run() as run:
    for i in range(20):
        answer(f"q{i}")
try:
    with mlflow.start_span("failing"):
        raise ValueError("no")
except ValueError:
    pass
print(run.info.run_id, run.info.experiment_id)
"""
    run_id, experiment = logging.run(program).split()
    assert logging.sync().returncode == 0
    import mlflow

    traces = mlflow.search_traces(locations=[experiment], return_type="list")
    assert len(traces) == 21
    good = [t for t in traces if t.info.state == "OK"]
    assert len(good) == 20
    for trace in good:
        assert [s.name for s in trace.data.spans] == ["answer", "retrieve"]
        assert trace.data.spans[1].outputs == [{"page_content": "x", "metadata": {"score": 0.5}}]
        assert trace.info.tags["brand"] == "aurora"
        assert trace.info.trace_metadata["mlflow.sourceRun"] == run_id
    assert {t.data.spans[0].outputs for t in good} == {f"Q{i}" for i in range(20)}
