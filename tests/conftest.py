"""Real servers for the tests, started only when a test asks for them, stopped in every case."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_platform.local import Stack


def running(data: Path, *, workspaces: bool = False) -> Iterator[Stack]:
    """A stack of its own on free ports; it also stops when the test process is killed."""
    stack = Stack(data)
    try:
        stack.up(port=0, workspaces=workspaces, webhooks_local=True, owned=True)
        yield stack
    finally:
        stack.reset()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """MLflow with basic auth on Postgres and S3; webhooks may be http to private addresses.

    Shared by the whole session: a test uses names of its own and leaves the servers running.
    """
    yield from running(tmp_path_factory.mktemp("stack") / "data")


@pytest.fixture(scope="session")
def stack_with_workspaces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """As `stack`, with MLflow's workspaces on."""
    yield from running(tmp_path_factory.mktemp("stack-workspaces") / "data", workspaces=True)
