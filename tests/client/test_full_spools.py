"""Spools that take no more: the records are counted, and the program goes on."""

from __future__ import annotations

import json

from tests.client.programs import Logging
from tests.faults.proxy import Proxy, refused_by_reset

pytest_plugins = ("tests.client.program_fixtures",)


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
