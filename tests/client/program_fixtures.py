"""Where the programs of `programs` log to, as fixtures."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.local import Stack
from tests.client.programs import Logging
from tests.client.stock_server import StockServer
from tests.faults.proxy import Proxy


@pytest.fixture
def logging_to(stack: Stack, tmp_path: Path) -> Iterator[Logging]:
    """The shared stack, by a durable URI; programs find an experiment's name of their own in $EXPERIMENT."""
    where = stack.endpoints().environment()
    experiment = {"EXPERIMENT": f"durable/{secrets.token_hex(4)}"}
    made = Logging(where.pop("MLFLOW_TRACKING_URI"), experiment, tmp_path / "spool", where)
    yield made
    made.stop_shipper()


@pytest.fixture
def proxied(logging_to: Logging, stack: Stack) -> Iterator[tuple[Logging, Proxy]]:
    """The same, by way of a proxy that does what networks do."""
    host, _, port = logging_to.uri.removeprefix("http://").rpartition(":")
    with Proxy((host, int(port))) as proxy:
        logging_to.uri = proxy.uri
        yield logging_to, proxy
        logging_to.stop_shipper()


@pytest.fixture
def plain(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's own client, to see what is on the server."""
    for name, value in stack.endpoints().environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    import mlflow

    return mlflow.MlflowClient(stack.endpoints().tracking_uri)


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[StockServer]:
    """MLflow's own server on a database file."""
    server = StockServer(tmp_path)
    try:
        server.up()
        yield server
    finally:
        server.kill()
