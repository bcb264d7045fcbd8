"""Platforms to back up and to restore into, on real stacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlflow_platform.adapters.postgres import Database
from mlflow_platform.adapters.s3 import S3Login, S3Store
from mlflow_platform.adapters.trees import FileTree, S3Tree
from mlflow_platform.backup.create import Platform
from mlflow_platform.backup.keys import ServerKeys
from mlflow_platform.backup.restore import Target
from mlflow_platform.backup.vault import Vault
from mlflow_platform.local import Stack
from mlflow_platform.local import credentials as stored
from tests.conftest import running
from tests.retention.conftest import World, make_world


def login(stack: Stack) -> S3Login:
    where = stack.endpoints()
    return S3Login(where.s3_endpoint, "us-east-1", where.s3_access_key, where.s3_secret_key)


def platform_of(stack: Stack, prefix: str = "") -> Platform:
    """A stack as what is backed up, or restored into."""
    where, kept = stack.endpoints(), stored.load(stack.folder)
    return Platform(
        Database(where.database_uri),
        Database(where.auth_database_uri),
        S3Tree(f"s3://{where.s3_bucket}{prefix}", login(stack)),
        keys=ServerKeys(kept.kek_passphrase, kept.webhook_key),
    )


def target_of(stack: Stack) -> Target:
    where = stack.endpoints()
    return Target(
        platform_of(stack),
        (where.username, where.password),
        stores=[S3Store(f"s3://{where.s3_bucket}", login(stack))],
    )


@contextmanager
def own_keys(stack: Stack, source: Stack) -> Iterator[None]:
    """Nothing: a new stack has keys of its own."""
    yield


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(FileTree(str(tmp_path / "vault"), create=True))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that is backed up."""
    yield from running(tmp_path_factory.mktemp("source") / "data")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An empty stack to restore into, once a module."""
    yield from running(tmp_path_factory.mktemp("other") / "data")


@pytest.fixture
def world(source: Stack, request: pytest.FixtureRequest) -> Iterator[World]:
    """An experiment on the source."""
    yield from make_world(source, f"backup/{request.node.name}")
