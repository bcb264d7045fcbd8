"""Programs that use nothing but MLflow's own API, through a durable URI, against the real stack."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mlflow_platform.local import Stack
from tests.client.programs import Logging
from tests.faults.proxy import Proxy, answer, late, lost, refused_by_reset

pytest_plugins = ("tests.client.program_fixtures",)

#: One run with everything that a program logs by hand.
_EVERYTHING = """
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run(run_name="one") as run:
    for step in range(5):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metrics({"nan": float("nan"), "inf": float("inf")})
    mlflow.log_params({f"p{i}": i for i in range(150)})
    mlflow.set_tags({"team": "search", "ünïcode": "\\u2603\\n"})
    mlflow.log_text("hello", "notes/a.txt")
    mlflow.log_dict({"a": 1}, "b.json")
    numbers = __import__("numpy").arange(3)
    mlflow.log_input(mlflow.data.from_numpy(numbers, name="numbers"), context="training")
    mlflow.log_metric("numbered", 0.5, step=numbers[2])
    mlflow.log_metric("asynchronous", 2.0, synchronous=False).wait()
    with mlflow.start_run(nested=True, run_name="child") as child:
        mlflow.log_param("stage", "draft")
    client.set_tag(run.info.run_id, "gone", "x")
    client.delete_tag(run.info.run_id, "gone")
print(json.dumps({"run": run.info.run_id, "child": child.info.run_id, "uri": run.info.artifact_uri}))
"""


def check_everything(plain: Any, logged: dict[str, str]) -> None:
    """What `_EVERYTHING` logged is on the server, once."""
    import mlflow

    run = plain.get_run(logged["run"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "one"
    history = plain.get_metric_history(logged["run"], "loss")
    assert [(m.step, m.value) for m in history] == [(i, 1 / (i + 1)) for i in range(5)]
    assert [m.step for m in plain.get_metric_history(logged["run"], "numbered")] == [2]
    assert run.data.metrics["nan"] != run.data.metrics["nan"]
    assert run.data.metrics["asynchronous"] == 2.0
    assert run.data.params == {f"p{i}": str(i) for i in range(150)}
    assert run.data.tags["ünïcode"] == "\u2603\n"
    assert "gone" not in run.data.tags
    assert "mlplatform.id" not in run.data.tags
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/notes/a.txt") == "hello"
    assert mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/b.json") == {"a": 1}
    assert [d.dataset.name for d in run.inputs.dataset_inputs] == ["numbers"]
    child = plain.get_run(logged["child"])
    assert child.data.tags["mlflow.parentRunId"] == logged["run"]
    assert child.data.params == {"stage": "draft"}
    assert len(plain.search_runs([run.info.experiment_id])) == 2


def test_what_a_program_logs_is_on_the_server_with_the_ids_it_saw(logging_to: Logging, plain: Any) -> None:
    logged = json.loads(logging_to.run(_EVERYTHING))
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


def test_a_program_without_a_server_never_raises_and_sync_delivers_later(
    proxied: tuple[Logging, Proxy], plain: Any
) -> None:
    logging, proxy = proxied
    proxy.on("", refused_by_reset, times=-1)
    timed = "began = time.monotonic()\n" + _EVERYTHING + "print(time.monotonic() - began)"
    lines = logging.run(timed, MLPLATFORM_OFFLINE="1").splitlines()
    logged = json.loads(lines[0])
    assert int(logging.mlplatform("spool", "status", "--json").stdout.count('"records": 0')) == 0
    assert len(logging.mlplatform("spool", "export").stdout.splitlines()) > 10
    failed = logging.sync(timeout=1)
    assert failed.returncode == 1
    assert "something is left" in failed.stdout
    assert "Traceback" not in failed.stderr
    proxy._rules.clear()
    done = logging.sync()
    assert done.returncode == 0, done.stdout + done.stderr
    # The experiment was only a name: its runs are in the real one.
    experiment = plain.get_experiment_by_name(logging.environment["EXPERIMENT"])
    assert plain.get_run(logged["run"]).info.experiment_id == experiment.experiment_id
    check_everything(plain, logged)


def test_an_experiment_that_no_answer_told_of_is_used_and_not_made_again(
    proxied: tuple[Logging, Proxy], plain: Any
) -> None:
    """MLflow creates what it was not told of; the server, back by then, says that it exists."""
    logging, proxy = proxied
    name = logging.environment["EXPERIMENT"]
    experiment = plain.create_experiment(name)
    program = "with mlflow.start_run() as run: print(run.info.experiment_id)"
    proxy.on("experiments/get-by-name", answer(503))
    assert logging.run(program, MLFLOW_EXPERIMENT_NAME=name) == experiment
    assert proxy.count("experiments/create") == 1
    # A create that was not asked about before fails as MLflow's own does.
    new = f"{name}-new"
    made = f"client.get_experiment_by_name({new!r}); client.create_experiment({new!r})\n"
    for program in (f"client.create_experiment({name!r})", f"{made}client.create_experiment({new!r})"):
        refused = logging.start(program)
        assert "RESOURCE_ALREADY_EXISTS" in refused.communicate(timeout=120)[1]
    assert logging.sync().returncode == 0
    assert len(plain.search_runs([experiment])) == 1


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


def test_every_kind_of_fault_in_between_and_everything_arrives_once(
    proxied: tuple[Logging, Proxy], plain: Any
) -> None:
    logging, proxy = proxied
    html = answer(200, b"<html>welcome</html>", "text/html")
    for path in ("runs/create", "runs/log-batch", "runs/update", "runs/log-inputs", "runs/delete-tag"):
        proxy.on(path, lost)
        proxy.on(path, answer(503, b"{}", Retry_After="1"))
        proxy.on(path, answer(429))
        proxy.on(path, html)
        proxy.on(path, answer(500, b"<html>gateway</html>", "text/html"))
        proxy.on(path, refused_by_reset)
    proxy.on("notes/a.txt", lost)
    proxy.on("notes/a.txt", answer(502))
    proxy.on("runs/log-batch", late)
    logging.environment["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "3"
    logged = json.loads(logging.run(_EVERYTHING))
    assert logging.sync(timeout=200).returncode == 0
    check_everything(plain, logged)
    assert proxy.count("runs/create") >= 7


def test_what_the_server_refuses_is_in_quarantine_and_the_rest_arrives(
    logging_to: Logging, plain: Any
) -> None:
    program = """
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run() as run:
    mlflow.log_metrics({f"m{i}": i for i in range(50)})
    mlflow.log_metric("bad // name", 1.0)
    mlflow.log_param("model", "active")
    mlflow.log_param("model", "b")
    client.log_metric(run.info.run_id, "text", "no number")
    mlflow.log_metric("far", 1.0, step=1 << 63)
    mlflow.log_metrics({0: 0.5})
    mlflow.log_param("after", "x")
    mlflow.log_metric("after", 1.0)
client.log_metric("0" * 32, "nobody", 1.0)
mlflow.flush_async_logging()
time.sleep(1.5)
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run(): pass
print(run.info.run_id)
"""
    run_id = logging_to.run(program)
    assert logging_to.sync().returncode == 1
    run = plain.get_run(run_id)
    assert run.data.metrics == {**{f"m{i}": i for i in range(50)}, "after": 1.0}
    assert run.data.params == {"model": "active", "after": "x"}
    assert run.data.tags["mlplatform.rejected"] == "5"
    listed = logging_to.mlplatform("spool", "quarantine", "--json")
    assert listed.returncode == 1
    errors = [r["error"] for r in json.loads(listed.stdout)["spools"][0]["records"]]
    assert len(errors) == 6
    assert logging_to.mlplatform("spool", "status").returncode == 1
    assert logging_to.warnings.count("the tracking server refuses some of what is logged") == 1
    assert logging_to.mlplatform("spool", "quarantine", "--retry").returncode == 0
    assert logging_to.sync().returncode == 1
    assert logging_to.mlplatform("spool", "quarantine", "--drop").returncode == 0
    assert logging_to.mlplatform("spool", "status").returncode == 0


def test_strict_raises_what_mlflow_raises(logging_to: Logging) -> None:
    program = """
from mlflow.exceptions import MlflowException
mlflow.set_experiment(os.environ["EXPERIMENT"])
said = []
with mlflow.start_run() as run:
    mlflow.log_param("model", "a")
    for call in (
        lambda: mlflow.log_metric("bad // name", 1.0),
        lambda: mlflow.log_param("model", "b"),
        lambda: client.log_metric(run.info.run_id, "text", "no number"),
    ):
        try:
            call()
        except MlflowException as error:
            said.append(error.error_code)
print(said)
"""
    assert logging_to.run(program, MLPLATFORM_STRICT="1") == str(["INVALID_PARAMETER_VALUE"] * 3)


def test_a_full_spool_refuses_warns_once_and_counts(proxied: tuple[Logging, Proxy]) -> None:
    logging, proxy = proxied
    proxy.on("", refused_by_reset, times=-1)
    program = """
with mlflow.start_run():
    for i in range(5000):
        mlflow.log_metric("m", i, step=i)
print("went on")
"""
    assert logging.run(program, MLPLATFORM_SPOOL_LIMIT="300000", MLPLATFORM_OFFLINE="1") == "went on"
    assert logging.warnings.count("takes no more records") == 1
    status = logging.mlplatform("spool", "status", "--json")
    assert status.returncode == 1
    (state,) = json.loads(status.stdout)["spools"]
    # A start and an end of the run, a name tag and the metrics.
    assert state["records"] + state["refused"] == 5002
    assert state["refused"] > 100
    assert state["bytes"] < 400_000


def test_reads_and_registration_wait_at_most_ten_seconds_and_say_that_the_server_is_away(
    proxied: tuple[Logging, Proxy],
) -> None:
    logging, proxy = proxied
    proxy.on("", late, times=-1)
    program = """
with mlflow.start_run() as run:
    mlflow.log_metric("m", 1)
for call in (
    lambda: client.search_runs(["0"]),
    lambda: client.get_run("f" * 32),
    lambda: mlflow.register_model(f"runs:/{run.info.run_id}/model", "durable-away"),
):
    began = time.monotonic()
    try:
        call()
    except Exception as error:
        print(type(error).__name__, "is away" in str(error), time.monotonic() - began < 10.5)
began = time.monotonic()
print(client.get_run(run.info.run_id).data.metrics, time.monotonic() - began < 0.5)
"""
    lines = logging.run(program).splitlines()
    assert lines[:3] == ["Away True True"] * 3
    assert lines[3] == "{'m': 1.0} True"


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


def test_a_refused_login_holds_up_until_a_right_one_is_given(logging_to: Logging, plain: Any) -> None:
    right = logging_to.login["MLFLOW_TRACKING_PASSWORD"]
    logging_to.login["MLFLOW_TRACKING_PASSWORD"] = "wrong"
    program = """
with mlflow.start_run() as run:
    mlflow.log_metric("m", 1.0)
mlflow.flush_async_logging()
print(run.info.run_id)
"""
    run_id = logging_to.run(program)
    logging_to.stop_shipper()
    refused = logging_to.sync()
    assert refused.returncode == 1
    assert "the login is refused" in refused.stdout
    assert "401" in logging_to.mlplatform("spool", "status").stdout
    logging_to.login["MLFLOW_TRACKING_USERNAME"], user = (
        "nobody",
        logging_to.login["MLFLOW_TRACKING_USERNAME"],
    )
    assert f"was logged by user '{user}'" in logging_to.sync().stdout
    logging_to.login.update(MLFLOW_TRACKING_USERNAME=user, MLFLOW_TRACKING_PASSWORD=right)
    assert logging_to.sync().returncode == 0
    assert plain.get_run(run_id).data.metrics == {"m": 1.0}
    for file in logging_to.spool.root.rglob("*"):
        assert not file.is_file() or right.encode() not in file.read_bytes(), file


def test_a_spool_that_cannot_be_written_costs_the_records_not_the_program(logging_to: Logging) -> None:
    logging_to.base.write_text("a file where a folder should be")
    program = """
with mlflow.start_run() as run:
    mlflow.log_metric("m", 1.0)
    mlflow.log_text("x", "a.txt")
print("went on")
"""
    assert logging_to.run(program) == "went on"
    assert logging_to.warnings.count("takes no more records") == 1


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
    logged = json.loads(logging.run(_EVERYTHING + trace).splitlines()[0])
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


@pytest.mark.parametrize("link", ["", "1"])
def test_a_large_artifact_is_uploaded_at_once_or_linked_and_without_a_server_kept(
    link: str, proxied: tuple[Logging, Proxy], plain: Any, tmp_path: Path
) -> None:
    import mlflow

    logging, proxy = proxied
    (tmp_path / "large.bin").write_bytes(b"x" * 5000)
    program = """
from mlflow_platform.client import artifacts
artifacts.LARGE = 1000
with mlflow.start_run() as run:
    mlflow.log_artifact(sys.argv[1], "here")
print(run.info.run_id, len(list(artifacts.Path(sys.argv[2]).glob("*/blobs/*/*"))))
"""
    arguments = str(tmp_path / "large.bin"), str(logging.base)
    there, kept = logging.run(program, *arguments, MLPLATFORM_SPOOL_LINK=link).split()
    if not link:
        assert kept == "0"
    assert logging.sync().returncode == 0
    proxy.on("", refused_by_reset, times=-1)
    later, kept = logging.run(program, *arguments, MLPLATFORM_SPOOL_LINK=link, MLPLATFORM_OFFLINE="1").split()
    assert kept == "1"
    (copy,) = logging.spool.blobs.glob("*/large.bin")
    assert copy.samefile(tmp_path / "large.bin") is bool(link)
    proxy._rules.clear()
    assert logging.sync().returncode == 0
    for run_id in (there, later):
        uri = plain.get_run(run_id).info.artifact_uri
        assert Path(mlflow.artifacts.download_artifacts(f"{uri}/here/large.bin")).stat().st_size == 5000
