"""MLflow's two schemas: revisions, the way to each by MLflow's own scripts, and indexes that it lacks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import BadInput, Fatal

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.engine import Connection


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


def refuse_unknown(found: Mapping[str, str | None]) -> None:
    """`BadInput` for a schema that a newer MLflow has made: there is no way back by migration."""
    for schema in SCHEMAS:
        revision = found[schema.name]
        if revision is not None and revision not in {s.revision for s in _scripts(schema).walk_revisions()}:
            raise BadInput(
                f"the schema of {schema.name} is at revision {revision}, which the installed MLflow does not "
                "know: a newer one has migrated it",
                remedy="deploy that version again, or restore a dump made before (docs/upgrade.md)",
            )


def upgrade(connection: Connection, schema: Schema, revision: str = "head") -> None:
    """One schema to a revision, within the connection's transaction."""
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
        apply(lambda now, _: scripts._stamp_revs(LEGACY_AUTH_REVISION, now))
    apply(lambda now, _: scripts._upgrade_revs(revision, now))


def build_indexes(connection: psycopg.Connection[Any]) -> None:
    """Build what is missing while servers go on writing.

    A build that broke off leaves an invalid index behind, which `if not exists` would keep: such
    ones are dropped first.
    """
    for name, columns in INDEXES.items():
        if connection.execute("select to_regclass(%s)", (columns.split()[0],)).fetchone() == (None,):
            continue  # an old revision that was restored
        invalid = "select 1 from pg_index where indexrelid = to_regclass(%s) and not indisvalid"
        if connection.execute(invalid, (name,)).fetchone():
            connection.execute(f"drop index concurrently {name}")
        connection.execute(f"create index concurrently if not exists {name} on {columns}")


def _scripts(schema: Schema) -> Any:
    from alembic.script import ScriptDirectory

    package = importlib.util.find_spec("mlflow")  # not imported: the auth app alone would take seconds
    if package is None or package.origin is None:
        raise Fatal("MLflow is not installed", remedy="run this in the platform's image")
    return ScriptDirectory(str(Path(package.origin).parent / schema.folder))
