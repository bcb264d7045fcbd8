"""Logged models: with the server there, with it away, and on servers that make up their own ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.client.programs import LOG_MODEL, Logging
from tests.faults.proxy import Proxy, refused_by_reset

pytest_plugins = ("tests.client.program_fixtures",)


def test_a_model_is_logged_read_back_and_registered(logging_to: Logging, plain: Any) -> None:
    register = """
version = mlflow.register_model(info.model_uri, os.environ["EXPERIMENT"].replace("/", "-"))
print(version.version, mlflow.pyfunc.load_model(f"models:/{version.name}/1").predict([3.0]))
"""
    lines = logging_to.run(LOG_MODEL + register, "load").splitlines()
    assert lines[1:] == ["[2.0, 4.0]", "1 [6.0]"]
    assert logging_to.sync().returncode == 0
    logged = json.loads(lines[0])
    model = plain.get_logged_model(logged["model"])
    assert (model.name, model.status.name, model.source_run_id) == ("double", "READY", logged["run"])
    assert model.params == {"depth": "3"}
    assert model.tags["stage"] == "draft"
    assert [m.value for m in model.metrics] == [0.9]
    outputs = plain.get_run(logged["run"]).outputs.model_outputs
    assert [o.model_id for o in outputs] == [logged["model"]]


def test_a_model_logged_without_a_server_is_read_back_here_and_delivered_later(
    proxied: tuple[Logging, Proxy], plain: Any
) -> None:
    logging, proxy = proxied
    proxy.on("", refused_by_reset, times=-1)
    lines = logging.run(LOG_MODEL, "load", MLPLATFORM_OFFLINE="1").splitlines()
    assert lines[1] == "[2.0, 4.0]"
    proxy._rules.clear()
    assert logging.sync().returncode == 0
    logged = json.loads(lines[0])
    assert plain.get_logged_model(logged["model"]).status.name == "READY"
    import mlflow

    path = mlflow.artifacts.download_artifacts(logged["uri"], tracking_uri=logging.uri)
    assert (Path(path) / "MLmodel").exists()
    assert not list(logging.spool.blobs.rglob("*")), "copies go when they are delivered"
