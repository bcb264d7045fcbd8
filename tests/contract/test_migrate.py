"""The migration that servers of the deployment wait for, on a real Postgres."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from mlflow_platform.errors import BadInput, Fatal, Transient
from mlflow_platform.local import Stack
from mlflow_platform.local.credentials import load
from mlflow_platform.local.postgres import ROLE, Postgres
from mlflow_platform.server import database, migrate, schemas

#: MLflow's own models use what SQLAlchemy 2.1 is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

Database = Callable[..., None]


@pytest.fixture
def database(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Call it to have a database of the test's own, reached by libpq's environment variables alone."""
    credentials = load(stack.folder)
    postgres = Postgres(stack.folder, stack.settings(), credentials)
    made = "migrate_test"

    def make(encoding: str = "UTF8") -> None:
        with postgres.connect("postgres", superuser=True) as connection:
            connection.autocommit = True
            connection.execute(
                sql.SQL("create database {} owner {} template template0 encoding {} locale 'C'").format(
                    sql.Identifier(made), sql.Identifier(ROLE), sql.Literal(encoding)
                )
            )
        monkeypatch.setenv("PGHOST", "127.0.0.1")
        monkeypatch.setenv("PGPORT", str(stack.settings().ports["postgres"]))
        monkeypatch.setenv("PGUSER", ROLE)
        monkeypatch.setenv("PGPASSWORD", credentials.database_password)
        monkeypatch.setenv("PGDATABASE", made)

    yield make
    with postgres.connect("postgres", superuser=True) as connection:
        connection.autocommit = True
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(made)))


def tables() -> set[str]:
    with psycopg.connect() as connection:
        found = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
    return {row[0] for row in found}


def revisions() -> dict[str, str | None]:
    with psycopg.connect(autocommit=True) as connection:
        return schemas.current(connection)


def schema_of(schema: str = "public") -> list[tuple[str, ...]]:
    """Every column, index and constraint: what two databases must agree in."""
    with psycopg.connect() as connection:
        return connection.execute(
            """
            select 'column', table_name, column_name,
                   data_type || coalesce(character_maximum_length::text, '') || is_nullable
                   from information_schema.columns where table_schema = %(s)s
            union all select 'index', tablename, indexname, indexdef from pg_indexes where schemaname = %(s)s
            union all select 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
                   from pg_constraint where connamespace = %(s)s::regnamespace
            order by 1, 2, 3
            """,
            {"s": schema},
        ).fetchall()


def test_an_empty_database_becomes_what_mlflow_itself_would_make(database: Database) -> None:
    database()
    assert revisions() == {"tracking": None, "auth": None}
    assert migrate.main(["run"]) == 0
    assert revisions() == schemas.needed()
    migrate.wait(patience=1)
    ours = [row for row in schema_of() if not row[2].startswith("mlplatform_")]
    assert {row[2] for row in schema_of() if row[2].startswith("mlplatform_")} == set(schemas.INDEXES)

    with psycopg.connect(autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    mlflow_itself("tracking", "heads")
    mlflow_itself("auth", "head")
    assert ours == schema_of()


def test_a_second_run_changes_nothing_and_repairs_a_broken_index(database: Database) -> None:
    database()
    migrate.run()
    before = schema_of()
    migrate.run()
    assert schema_of() == before
    with psycopg.connect(autocommit=True) as connection:
        connection.execute("drop index mlplatform_runs_deleted")
    migrate.run()
    assert schema_of() == before


def test_a_failure_of_the_second_schema_takes_the_first_one_back(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database()
    with psycopg.connect(autocommit=True) as connection:
        connection.execute("create table roles (mine int)")  # auth's migrations make a table of this name
    assert migrate.main(["run"]) == 1
    assert tables() == {"roles"}
    error = capsys.readouterr().err
    assert "the migration of auth failed, nothing was changed" in error
    assert 'relation "roles" already exists' in error
    with psycopg.connect(autocommit=True) as connection:
        connection.execute("drop table roles")
    migrate.run()
    assert revisions() == schemas.needed()


def test_an_auth_database_older_than_its_version_table_is_brought_along(database: Database) -> None:
    database()
    # What MLflow before 3.6 made: the first migration's tables and no record of it.
    mlflow_itself("auth", schemas.LEGACY_AUTH_REVISION)
    with psycopg.connect(autocommit=True) as connection:
        connection.execute("insert into users (username, password_hash, is_admin) values ('old', 'x', true)")
        connection.execute("drop table alembic_version_auth")
    migrate.run()
    assert revisions() == schemas.needed()
    with psycopg.connect() as connection:
        assert connection.execute("select username from users").fetchall() == [("old",)]


def test_another_encoding_is_refused_by_name(database: Database) -> None:
    database(encoding="SQL_ASCII")
    with pytest.raises(BadInput, match="encoding is SQL_ASCII, MLflow needs UTF8"):
        migrate.run()
    assert tables() == set()


def test_two_runs_at_once_take_turns(database: Database) -> None:
    database()
    runs = [threading.Thread(target=migrate.run) for _ in range(2)]
    for r in runs:
        r.start()
    for r in runs:
        r.join()
    assert revisions() == schemas.needed()


def test_the_lock_of_a_backup_is_waited_for_and_then_named(database: Database) -> None:
    database()
    with psycopg.connect(autocommit=True) as other:
        other.execute("select pg_advisory_lock(%s)", (database.LOCK,))
        with pytest.raises(Transient, match="holds the lock"):
            migrate.run(patience=1)
    assert tables() == set()


def test_waiting_ends_with_the_migration(database: Database) -> None:
    database()
    with pytest.raises(Transient, match="'tracking': None"):
        migrate.wait(patience=0)
    waiting = threading.Thread(target=migrate.wait)
    waiting.start()
    time.sleep(0.5)
    assert waiting.is_alive()
    migrate.run()
    waiting.join(30)
    assert not waiting.is_alive()


def test_an_absent_server_is_named_without_the_password(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database()
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGPASSWORD", "not-to-be-seen")
    with pytest.raises(Transient, match="no connection to Postgres") as caught:
        migrate.run(patience=0)
    assert "not-to-be-seen" not in str(caught.value)


def test_other_words_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert migrate.main(["up"]) == 64
    assert "run|wait|dumps|restore DUMP" in capsys.readouterr().err


def test_an_error_of_the_migration_scripts_is_not_the_databases(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database()
    with psycopg.connect(autocommit=True) as connection:
        connection.execute("create table alembic_version (version_num varchar(32))")
        connection.execute("insert into alembic_version values ('fromthefuture')")
    with pytest.raises(Fatal, match=r"migration of tracking failed, nothing was changed.*fromthefuture"):
        migrate.run()


def mlflow_itself(schema: str, revision: str) -> None:
    """Migrate by MLflow's own functions, in a process of its own."""
    calls = {
        "tracking": "from mlflow.store.db.utils import _initialize_tables as go; go(engine)",
        "auth": f"from mlflow.server.auth.db.utils import migrate as go; go(engine, {revision!r})",
    }
    engine = f"import sqlalchemy; engine = sqlalchemy.create_engine({database.FROM_ENVIRONMENT!r}); "
    subprocess.run([sys.executable, "-c", engine + calls[schema]], check=True, capture_output=True)
