"""The migration that servers of the deployment wait for, on a real Postgres."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import pytest
import urllib3

from mlflow_platform.errors import BadInput, Rejected, Transient
from mlflow_platform.local import Stack
from mlflow_platform.server import dumps, migrate, schemas
from mlflow_platform.server.database import FROM_ENVIRONMENT, LOCK
from tests import old_mlflow
from tests.contract.conftest import OLD, Database
from tests.contract.rows import content

#: MLflow's own models use what SQLAlchemy 2.1 is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


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
        other.execute("select pg_advisory_lock(%s)", (LOCK,))
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


def test_a_password_that_is_not_the_databases_is_not_waited_for_long(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database()
    monkeypatch.setenv("PGPASSWORD", "not-to-be-seen")
    monkeypatch.setattr("mlflow_platform.server.database.REFUSED_PATIENCE", 1.0)
    for program in (migrate.run, migrate.wait):  # which wait for a server that is away for half an hour
        with pytest.raises(
            Rejected, match=r"Postgres refuses the login: .*password authentication"
        ) as caught:
            program()
        assert "not-to-be-seen" not in str(caught.value)


def test_other_words_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert migrate.main(["up"]) == 64
    assert "run|wait|dumps|restore DUMP" in capsys.readouterr().err


def test_a_database_of_a_newer_mlflow_is_refused_before_anything_is_done(
    database: Database, dumps_place: str
) -> None:
    database()
    with psycopg.connect(autocommit=True) as connection:
        connection.execute("create table alembic_version (version_num varchar(32))")
        connection.execute("insert into alembic_version values ('fromthefuture')")
    with pytest.raises(BadInput, match=r"tracking is at revision fromthefuture.*does not know"):
        migrate.run()
    assert dumps.finished(dumps.place()) == []
    assert tables() == {"alembic_version"}


def test_a_half_failed_migration_of_old_data_leaves_them_and_their_servers_alone(
    stack: Stack, old_database: None, dumps_place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(autocommit=True) as connection:
        # Made by hand; the tracking schema's migrations pass, one of auth's makes a table of this name.
        connection.execute("create table roles (mine int)")
        connection.execute("insert into roles values (7)")
    before, schema = content(), schema_of()
    with Requests(stack) as old_server:
        assert migrate.main(["run"]) == 1
        old_server.go_on()
    error = capsys.readouterr().err
    assert "the migration of auth failed, nothing was changed" in error
    assert 'relation "roles" already exists' in error
    assert old_server.failed == []
    assert old_server.done > 0
    written = {"metrics", "latest_metrics"}
    after = content()
    assert {t: r for t, r in after.items() if t not in written} == {
        t: r for t, r in before.items() if t not in written
    }
    assert len(after["metrics"]) == len(before["metrics"]) + old_server.done
    assert schema_of() == schema
    assert locks() == []
    assert len(dumps.finished(dumps.place())) == 1


def test_a_table_in_use_delays_the_migration_and_blocks_nobody(old_database: None) -> None:
    with psycopg.connect() as reader:
        reader.execute("select count(*) from trace_info")
        migration = threading.Thread(target=migrate.run)
        migration.start()
        waited_for("trace_info")
        with psycopg.connect(autocommit=True) as server:
            # Behind an `alter` that queues, this would wait until the reader ends: for ever.
            server.execute("set lock_timeout = '60s'")
            for _ in range(3):
                waited_for("trace_info")
                server.execute("select count(*) from trace_info")
        assert migration.is_alive()
    migration.join(120)
    assert not migration.is_alive()
    assert revisions() == schemas.needed()


def test_killed_or_cut_off_in_the_middle_it_leaves_nothing_and_goes_through_later(old_database: None) -> None:
    before, schema = content(), schema_of()
    with psycopg.connect() as user:
        user.execute("lock table users in row exclusive mode")  # by then tracking is migrated, auth is not
        killed = subprocess.Popen([sys.executable, "-m", "mlflow_platform.server.migrate", "run"])
        waited_for("users")
        killed.kill()
        killed.wait()
        while locks():  # the server notices that its client is gone
            time.sleep(0.1)
        assert (content(), schema_of()) == (before, schema)

        again = threading.Thread(target=migrate.run)
        again.start()
        waited_for("users")
        with psycopg.connect(autocommit=True) as connection:  # as a restart of Postgres ends a session
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s",
                ("mlplatform-migrate",),
            )
        waited_for("users")
    again.join(120)
    assert not again.is_alive()
    assert revisions() == schemas.needed()
    assert sorted(content()["users"]) == sorted(before["users"])
    assert sorted(content()["metrics"]) == sorted(before["metrics"])


class Requests:
    """An older MLflow's server on the test's database, and a client that logs to it all along."""

    def __init__(self, stack: Stack) -> None:
        self.done = 0
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._folder = tempfile.TemporaryDirectory()
        self._port = free_port()

    def __enter__(self) -> Requests:
        settings = Path(self._folder.name) / "auth.ini"
        settings.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {FROM_ENVIRONMENT}\n"
            "admin_username = old-admin\nadmin_password = an-old-password\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        more = {
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "k",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        command = ["-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
        self._log = (Path(self._folder.name) / "log").open("w")
        self._server = subprocess.Popen(
            [sys.executable, *command, "--port", str(self._port), "--backend-store-uri", FROM_ENVIRONMENT],
            env=old_mlflow.environment(OLD, more),
            cwd=self._folder.name,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        while self._ask("GET", "/health") != 200:
            assert self._server.poll() is None, Path(self._log.name).read_text()[-2000:]
            time.sleep(0.5)
        with psycopg.connect() as connection:
            row = connection.execute("select run_uuid from runs where lifecycle_stage = 'active'").fetchone()
            assert row is not None
            self._run = row[0]
        self._client = threading.Thread(target=self._log_metrics)
        self._client.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._client.join()
        os.killpg(self._server.pid, signal.SIGTERM)
        self._server.wait(30)
        self._log.close()
        self._folder.cleanup()

    def go_on(self) -> None:
        """Return when three more requests have been answered well, or one has failed."""
        until = self.done + 3
        while self.done < until and not self.failed:
            time.sleep(0.1)

    def _log_metrics(self) -> None:
        while not self._stop.is_set():
            body = {
                "run_id": self._run,
                "key": "during",
                "value": 1,
                "timestamp": self.done,
                "step": self.done,
            }
            status = self._ask("POST", "/api/2.0/mlflow/runs/log-metric", body)
            if status == 200:
                self.done += 1
            else:
                self.failed.append(str(status))
                return

    def _ask(self, method: str, path: str, body: object = None) -> object:
        try:
            return urllib3.request(
                method,
                f"http://127.0.0.1:{self._port}{path}",
                json=body,
                headers=urllib3.make_headers(basic_auth="old-admin:an-old-password"),
                retries=False,
                timeout=30,
            ).status
        except urllib3.exceptions.HTTPError as error:
            return error


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def waited_for(table: str) -> None:
    """Return when the migration queues for a table that somebody else uses."""
    with psycopg.connect(autocommit=True) as connection:
        while not connection.execute(
            "select 1 from pg_locks join pg_stat_activity using (pid) where not granted "
            "and application_name = 'mlplatform-migrate' and relation = %s::regclass",
            (table,),
        ).fetchone():
            time.sleep(0.02)


def locks() -> list[tuple[object, ...]]:
    """What sessions of the migration hold in this database."""
    with psycopg.connect(autocommit=True) as connection:
        return connection.execute(
            "select locktype, relation::regclass, mode from pg_locks join pg_stat_activity using (pid) "
            "where application_name = 'mlplatform-migrate' and datname = current_database()"
        ).fetchall()


def mlflow_itself(schema: str, revision: str) -> None:
    """Migrate by MLflow's own functions, in a process of its own."""
    calls = {
        "tracking": "from mlflow.store.db.utils import _initialize_tables as go; go(engine)",
        "auth": f"from mlflow.server.auth.db.utils import migrate as go; go(engine, {revision!r})",
    }
    engine = f"import sqlalchemy; engine = sqlalchemy.create_engine({FROM_ENVIRONMENT!r}); "
    subprocess.run([sys.executable, "-c", engine + calls[schema]], check=True, capture_output=True)
