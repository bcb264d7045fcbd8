"""An external database and bucket are tried before anything is deployed on them."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from mlflow_platform.local import Stack
from mlflow_platform.local.postgres import ROLE
from mlflow_platform.server import preflight
from tests.contract.conftest import Database, postgres


@pytest.fixture
def guest(stack: Stack, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection]:
    """libpq's variables name a role that owns nothing; the connection is a superuser's."""
    database()
    with postgres(stack).connect("migrate_test", superuser=True) as connection:
        connection.autocommit = True
        connection.execute("create role preflight_guest login password 'guest' connection limit 5")
        monkeypatch.setenv("PGUSER", "preflight_guest")
        monkeypatch.setenv("PGPASSWORD", "guest")
        yield connection
        connection.execute("drop owned by preflight_guest; drop role preflight_guest")


def said(needed: int = 0) -> list[str]:
    return [p.what for p in preflight.check_database(needed, patience=0)]


def test_a_database_and_a_bucket_that_do(
    stack: Stack, database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database()
    bucket = f"s3://{stack.endpoints().s3_bucket}/some/prefix"
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", bucket)
    monkeypatch.setenv("MLPLATFORM_CONNECTIONS", "20")
    assert preflight.main() == 0
    out = capsys.readouterr().out
    assert f"database: reached as {ROLE}, UTF8" in out
    assert f"bucket: {bucket}/ takes, lists, gives and deletes objects" in out
    assert list(preflight.Folder.of(bucket).names()) == []


def test_a_role_without_rights_or_room(guest: psycopg.Connection) -> None:
    rights = [
        "preflight_guest may not create tables in the schema public",
        "preflight_guest may not create schemas, in which the platform keeps its own tables",
    ]
    limit = int(guest.execute("show max_connections").fetchall()[0][0])
    assert said() == rights
    assert said(6) == [*rights, "the role's is 5, the value database.maxConnections says 6"]
    assert f"max_connections is {limit}, the value database.maxConnections says {limit + 1}" in said(
        limit + 1
    )
    guest.execute("grant create on schema public to preflight_guest")
    guest.execute("grant create on database migrate_test to preflight_guest")
    assert said(5) == []
    guest.execute("create table runs (id int)")
    (other,) = said()
    assert other == "preflight_guest does not own MLflow's tables (runs): it could not migrate them"
    guest.execute("drop table runs")
    guest.execute("alter database migrate_test connection limit 4")
    assert "the database's connection limit is 4" in said(5)[0]


def test_an_encoding_and_a_newer_schema_are_both_said(database: Database) -> None:
    database(encoding="SQL_ASCII")
    with psycopg.connect(autocommit=True) as connection:
        connection.execute("create table alembic_version (version_num varchar(32))")
        connection.execute("insert into alembic_version values ('fromthefuture')")
    (encoding,) = said()
    assert encoding == "the database's encoding is SQL_ASCII, MLflow needs UTF8"
    database()
    with psycopg.connect(autocommit=True) as connection:
        connection.execute("create table alembic_version (version_num varchar(32))")
        connection.execute("insert into alembic_version values ('fromthefuture')")
    (newer,) = said()
    assert "revision fromthefuture" in newer


def test_no_way_in_is_said_without_the_password(
    stack: Stack,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database()
    monkeypatch.setattr(preflight, "PATIENCE", 0.0)
    monkeypatch.setenv("PGPASSWORD", "not-to-be-seen")
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", f"s3://{stack.endpoints().s3_bucket}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nor-this")
    assert preflight.main() == 1
    error = capsys.readouterr().err
    assert "password authentication failed" in error
    assert "SignatureDoesNotMatch" in error
    assert "check the bucket, and what its policy allows this login" in error
    assert "not-to-be-seen" not in error
    assert "nor-this" not in error
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:1")
    assert preflight.main() == 1
    error = capsys.readouterr().err
    assert "no connection to Postgres" in error
    assert "check endpoint and network" in error
