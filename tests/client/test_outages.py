"""Servers that are away, slow, or answered for by a gateway: programs through a durable URI go on, and what
they log arrives once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.client.everything import EVERYTHING, check_everything
from tests.client.programs import Logging
from tests.faults.proxy import Proxy, answer, late, lost, refused_by_reset

pytest_plugins = ("tests.client.program_fixtures",)


def test_a_program_without_a_server_never_raises_and_sync_delivers_later(
    proxied: tuple[Logging, Proxy], plain: Any
) -> None:
    logging, proxy = proxied
    proxy.on("", refused_by_reset, times=-1)
    timed = "began = time.monotonic()\n" + EVERYTHING + "print(time.monotonic() - began)"
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


def test_every_kind_of_fault_in_between_and_everything_arrives_once(
    proxied: tuple[Logging, Proxy], plain: Any
) -> None:
    logging, proxy = proxied
    html = answer(200, b"<html>welcome</html>", "text/html")
    for path in ("runs/create", "runs/log-batch", "runs/update", "runs/log-inputs", "runs/delete-tag"):
        proxy.on(path, lost)
        proxy.on(path, answer(503, b'{"message": "no healthy upstream"}', Retry_After="1"))
        proxy.on(path, answer(429))
        proxy.on(path, html)
        proxy.on(path, answer(500, b"<html>gateway</html>", "text/html"))
        proxy.on(path, refused_by_reset)
    proxy.on("notes/a.txt", lost)
    proxy.on("notes/a.txt", answer(502))
    proxy.on("runs/log-batch", late)
    logging.environment["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "3"
    logged = json.loads(logging.run(EVERYTHING))
    assert logging.sync(timeout=200).returncode == 0
    check_everything(plain, logged)
    assert proxy.count("runs/create") >= 7


def test_a_page_instead_of_an_answer_delivers_no_span_and_no_artifact(
    proxied: tuple[Logging, Proxy], plain: Any
) -> None:
    """Nor does a server that did not tell its version once keep spans back for ever."""
    import mlflow

    logging, proxy = proxied
    for path in ("v1/traces", "mlflow/traces", "notes/a.txt"):
        proxy.on(path, answer(200, b"<html>log in</html>", "text/html; charset=utf-8"), times=2)
    proxy.on("/version", answer(503), times=2)
    program = """
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run() as run:
    mlflow.log_text("hello", "notes/a.txt")
    with mlflow.start_span("asked") as span:
        span.set_outputs("said")
print(run.info.run_id, run.info.experiment_id)
"""
    run_id, experiment = logging.run(program).split()
    done = logging.sync(timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    location = plain.get_run(run_id).info.artifact_uri
    assert mlflow.artifacts.load_text(f"{location}/notes/a.txt") == "hello"
    (trace,) = mlflow.search_traces(locations=[experiment], return_type="list")
    assert [s.outputs for s in trace.data.spans] == ["said"]


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
