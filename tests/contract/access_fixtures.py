"""A folder of documents against the shared servers; a test module asks for them as its pytest_plugins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlflow_platform.adapters.mlflow import MlflowApi
from mlflow_platform.local import Stack
from tests.contract.access_loop import Folder, Recorder


def _folder(stack: Stack, *, workspaces_on: bool = False) -> Iterator[Folder]:
    at = stack.endpoints()
    with MlflowApi(at.tracking_uri, at.username, at.password) as api:
        yield Folder(Recorder(api), at.password, workspaces_on)


@pytest.fixture
def folder(stack: Stack) -> Iterator[Folder]:
    """An empty folder with an owner of its own, on the server with auth."""
    yield from _folder(stack)


@pytest.fixture
def folder_with_workspaces(stack_with_workspaces: Stack) -> Iterator[Folder]:
    """As `folder`, on the server with workspaces on."""
    yield from _folder(stack_with_workspaces, workspaces_on=True)
