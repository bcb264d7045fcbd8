"""Brings the schemas of tracking and auth to what the installed MLflow needs: both, or none.

MLflow migrates each on a connection of its own, so a failure of the second leaves the first
ahead, and neither the old nor the new server starts. Postgres can roll back DDL: here both run in
one transaction on one connection, and a failure leaves the database as it was. Both schemas live
in one database, in MLflow's own version tables.

    python -m mlflow_platform.server.migrate run     waits for Postgres, migrates, builds indexes
    python -m mlflow_platform.server.migrate wait    returns when the schemas are what MLflow needs

The connection comes from libpq's variables (PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE,
PGSSLMODE, ...), so that no URI ever holds a password. Exit codes: 0 done, 1 failed, 64 usage.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import EXIT_USAGE, BadInput, Fatal, PlatformError, Transient

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.engine import Connection

#: Migration, backup and retention exclude each other by this advisory lock (ASCII of "mlplatfo").
LOCK = 0x6D6C706C6174666F
#: Any connection of SQLAlchemy's dialect for psycopg 3, told nothing: libpq asks its environment.
FROM_ENVIRONMENT = "postgresql+psycopg://"
#: How long `run` waits for Postgres and for the lock, and `wait` for the schema, in seconds.
PATIENCE = 1800.0


@dataclass(frozen=True)
class Schema:
    """One of MLflow's two schemas: its migrations' folder in the package and the table of its revision."""

    name: str
    folder: str
    version_table: str


#: The version tables are Alembic's default one (mlflow/store/db_migrations/env.py) and auth's own
#: (mlflow/server/auth/db/migrations/env.py).
#: Tracking comes first: in one database the other order fails.
TRACKING = Schema("tracking", "store/db_migrations", "alembic_version")
AUTH = Schema("auth", "server/auth/db/migrations", "alembic_version_auth")
SCHEMAS = (TRACKING, AUTH)
#: Revision of an auth database made before MLflow 3.6, which kept none
#: (mlflow/server/auth/db/utils.py, INITIAL_REVISION).
LEGACY_AUTH_REVISION = "8606fa83a998"

#: Indexes that MLflow lacks; without the first, deleting runs is some 200 times slower at a million metrics.
INDEXES = {
    "mlplatform_logged_model_metrics_run": "logged_model_metrics (run_id)",
    "mlplatform_runs_search": "runs (experiment_id, lifecycle_stage, start_time desc)",
    "mlplatform_runs_deleted": "runs (lifecycle_stage, deleted_time)",
}


def main(arguments: list[str]) -> int:
    """Exit code of `run` or `wait`."""
    if arguments not in (["run"], ["wait"]):
        print("usage: python -m mlflow_platform.server.migrate run|wait", file=sys.stderr)
        return EXIT_USAGE
    try:
        run() if arguments == ["run"] else wait()
    except PlatformError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(patience: float = PATIENCE) -> None:
    """Wait for Postgres (`patience` in seconds), then migrate and build the indexes, alone under the lock."""
    with connected(time.monotonic() + patience) as guard:
        refuse_encoding(guard)
        say("waiting for the lock of migration, backup and retention")
        lock(guard, time.monotonic() + patience)
        if current(guard) == needed():
            say("both schemas are current")
        else:
            migrate()
        build_indexes(guard)
    say("done")


def wait(patience: float = PATIENCE) -> None:
    """Return when both schemas are what the installed MLflow needs; `Transient` after `patience` seconds."""
    deadline = time.monotonic() + patience
    wanted = needed()
    said: dict[str, str | None] | None = None
    while True:
        with connected(deadline) as connection:
            found = current(connection)
        if found == wanted:
            return
        if found != said:
            say(f"waiting for the migration: schemas are {found}, MLflow needs {wanted}")
            said = found
        if time.monotonic() > deadline:
            raise Transient(
                f"the schemas are {found}, not {wanted}", remedy="look at the migration Job's log"
            )
        time.sleep(1)


def connected(deadline: float) -> psycopg.Connection[Any]:
    """A connection in autocommit mode. Tries each second, because a first boot takes its time."""
    import psycopg

    said = ""
    while True:
        try:
            return psycopg.connect(autocommit=True, connect_timeout=5, application_name="mlplatform-migrate")
        except psycopg.OperationalError as error:
            reason = str(error).strip().splitlines()[-1]
            if time.monotonic() > deadline:
                raise Transient(
                    f"no connection to Postgres: {reason}", remedy="check PGHOST, the login and the network"
                ) from error
            if reason != said:
                say(f"waiting for Postgres: {reason}")
                said = reason
            time.sleep(1)


def refuse_encoding(connection: psycopg.Connection[Any]) -> None:
    """MLflow fails on any but UTF8, with "cannot use a string pattern on a bytes-like object"."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise BadInput(
            f"the database's encoding is {encoding}, MLflow needs UTF8",
            remedy="create it with: create database NAME encoding 'UTF8' template template0",
        )


def lock(connection: psycopg.Connection[Any], deadline: float) -> None:
    """Take the advisory lock; it is the connection's, and freed with it."""
    while connection.execute("select pg_try_advisory_lock(%s)", (LOCK,)).fetchone() != (True,):
        if time.monotonic() > deadline:
            raise Transient(
                "a backup, a retention run or another migration holds the lock", remedy="run it again later"
            )
        time.sleep(1)


def needed() -> dict[str, str | None]:
    """Schema -> head revision of the installed MLflow."""
    return {schema.name: _scripts(schema).get_current_head() for schema in SCHEMAS}


def current(connection: psycopg.Connection[Any]) -> dict[str, str | None]:
    """Schema -> revision of the database; None where there is none."""
    found: dict[str, str | None] = {}
    for schema in SCHEMAS:
        table = connection.execute("select to_regclass(%s)::text", (schema.version_table,)).fetchone()
        row = None
        if table and table[0]:
            row = connection.execute(f"select version_num from {schema.version_table}").fetchone()  # noqa: S608 - ours
        found[schema.name] = row[0] if row else None
    return found


def migrate() -> None:
    """Both schemas to their heads in one transaction; `Fatal` with the database as it was if either fails."""
    import sqlalchemy
    from alembic.util import CommandError

    engine = sqlalchemy.create_engine(FROM_ENVIRONMENT, poolclass=sqlalchemy.NullPool)
    failed = TRACKING
    try:
        with engine.begin() as connection:
            for schema in SCHEMAS:
                failed = schema
                say(f"migrating {schema.name}")
                upgrade(connection, schema)
    except (sqlalchemy.exc.SQLAlchemyError, CommandError) as error:
        raise Fatal(
            f"the migration of {failed.name} failed, nothing was changed: {str(error).splitlines()[0]}",
            remedy="the servers that ran before can go on",
        ) from error
    finally:
        engine.dispose()


def upgrade(connection: Connection, schema: Schema) -> None:
    """One schema to its head, within the connection's transaction."""
    import sqlalchemy
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext

    scripts = _scripts(schema)
    tables = set(sqlalchemy.inspect(connection).get_table_names())
    if schema is TRACKING and "experiments" not in tables:
        # As mlflow/store/db/utils.py, `_initialize_tables`: migrations start from this base.
        from mlflow.store.tracking.dbmodels.initial_models import Base

        Base.metadata.create_all(connection)

    def apply(steps: Callable[[Any, Any], Any]) -> None:
        with EnvironmentContext(Config(), scripts, fn=steps) as environment:
            environment.configure(connection=connection, version_table=schema.version_table)
            environment.run_migrations()

    if schema is AUTH and "users" in tables and schema.version_table not in tables:
        apply(lambda revision, _: scripts._stamp_revs(LEGACY_AUTH_REVISION, revision))
    apply(lambda revision, _: scripts._upgrade_revs("head", revision))


def build_indexes(connection: psycopg.Connection[Any]) -> None:
    """Build what is missing while servers go on writing.

    A build that broke off leaves an invalid index behind, which `if not exists` would keep: such
    ones are dropped first.
    """
    for name, columns in INDEXES.items():
        invalid = "select 1 from pg_index where indexrelid = to_regclass(%s) and not indisvalid"
        if connection.execute(invalid, (name,)).fetchone():
            connection.execute(f"drop index concurrently {name}")
        connection.execute(f"create index concurrently if not exists {name} on {columns}")


def say(text: str) -> None:
    print(text, flush=True)


def _scripts(schema: Schema) -> Any:
    from alembic.script import ScriptDirectory

    package = importlib.util.find_spec("mlflow")  # not imported: the auth app alone would take seconds
    if package is None or package.origin is None:
        raise Fatal("MLflow is not installed", remedy="run this in the platform's image")
    return ScriptDirectory(str(Path(package.origin).parent / schema.folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
