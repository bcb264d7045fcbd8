"""Databases of a test's own on the stack's Postgres, empty or as an older MLflow left them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from psycopg import sql

from mlflow_platform.local import Stack
from mlflow_platform.local.credentials import load
from mlflow_platform.local.postgres import ROLE, Postgres
from tests import old_mlflow

#: Both schemas have changed since: the auth schema last in 3.14.
OLD = "3.10.1"
_NAME = "migrate_test"
_TEMPLATE = "migrate_template"

#: Call it to have the database, which libpq's variables then name; `encoding` is Postgres' word.
Database = Callable[..., None]


def _create(stack: Stack, name: str, template: str, encoding: str = "UTF8") -> None:
    command = "create database {} owner {} template {} encoding {} locale 'C'"
    with postgres(stack).connect("postgres", superuser=True) as connection:
        connection.autocommit = True
        connection.execute(
            sql.SQL(command).format(
                sql.Identifier(name), sql.Identifier(ROLE), sql.Identifier(template), sql.Literal(encoding)
            )
        )


def _drop(stack: Stack, name: str) -> None:
    with postgres(stack).connect("postgres", superuser=True) as connection:
        connection.autocommit = True
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


def postgres(stack: Stack) -> Postgres:
    return Postgres(stack.folder, stack.settings(), load(stack.folder))


def variables(stack: Stack, database: str) -> dict[str, str]:
    """libpq's, and those of the S3 client."""
    ends = stack.endpoints()
    return {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(stack.settings().ports["postgres"]),
        "PGUSER": ROLE,
        "PGPASSWORD": load(stack.folder).database_password,
        "PGDATABASE": database,
        "MLFLOW_S3_ENDPOINT_URL": ends.s3_endpoint,
        "AWS_ACCESS_KEY_ID": ends.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": ends.s3_secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture
def database(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    def make(encoding: str = "UTF8", template: str = "template0") -> None:
        _drop(stack, _NAME)
        _create(stack, _NAME, template, encoding)
        for name, value in variables(stack, _NAME).items():
            monkeypatch.setenv(name, value)

    yield make
    _drop(stack, _NAME)


@pytest.fixture(scope="session")
def template(stack: Stack) -> Iterator[str]:
    """The database of an older MLflow, filled by its own code."""
    _create(stack, _TEMPLATE, "template0")
    old_mlflow.populate(OLD, variables(stack, _TEMPLATE))
    yield _TEMPLATE
    _drop(stack, _TEMPLATE)


@pytest.fixture
def old_database(database: Database, template: str) -> None:
    database(template=template)


@pytest.fixture
def dumps_place(stack: Stack, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of the stack's bucket for the test's dumps; libpq's and S3's variables name the stack."""
    for name, value in variables(stack, _NAME).items():
        monkeypatch.setenv(name, value)
    place = f"s3://{stack.endpoints().s3_bucket}/{request.node.name[:60]}/mlplatform/dumps"
    monkeypatch.setenv("MLPLATFORM_DUMPS", place)
    return place
