"""The databases of a backup into empty ones: the recorded revision is built, filled, checked and upgraded.

Whether both schemas are in one database, at the source or the target, makes no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlflow_platform.backup import manifest
from mlflow_platform.backup.manifest import Manifest
from mlflow_platform.backup.vault import BACKUPS, Vault
from mlflow_platform.errors import BadInput
from mlflow_platform.server import dump, schemas
from mlflow_platform.server import restore as rebuilding
from mlflow_platform.server.smoke import NAME as SMOKE_TEST

if TYPE_CHECKING:
    import psycopg

#: Every table that MLflow's login has had (mlflow/server/auth/db/migrations/versions).
AUTH_TABLES = frozenset(
    {
        "alembic_version_auth",
        "experiment_permissions",
        "gateway_endpoint_permissions",
        "gateway_model_definition_permissions",
        "gateway_secret_permissions",
        "registered_model_permissions",
        "role_permissions",
        "roles",
        "scorer_permissions",
        "user_role_assignments",
        "users",
        "workspace_permissions",
    }
)
#: Tables of MLflow's background work, which the source may still be doing.
WORK = ("job_locks", "scheduler_leases", "jobs")
#: Tables besides those that `refuse_used` asks by themselves in which there are rows only when somebody made
#: them, in an experiment that every server has or in none.
MADE = (
    "endpoints",
    "evaluation_datasets",
    "mcp_servers",
    "model_definitions",
    "registered_models",
    "scorers",
    "secrets",
    "trace_info",
    "webhooks",
)
#: Largest id of an experiment: the column is an integer of Postgres'.
_LARGEST_ID = 2**31 - 1

_RESTORED = """
create schema if not exists mlplatform;
create table if not exists mlplatform.restored (
  backup text primary key, began timestamptz not null default now(), finished timestamptz
);
"""


@dataclass(frozen=True)
class Part:
    """The tables of one schema in a backup, and the folder of the backup in which they are."""

    schema: schemas.Schema
    dumped: dump.Manifest
    folder: str

    def reading(self, vault: Vault) -> dump.Reading:
        return lambda stream: vault.reading(f"{self.folder}/{stream}")


def parts(vault: Vault, found: Manifest) -> list[Part]:
    """What a backup has of each schema, tracking first: in one database the other order fails."""
    result = []
    for name, dumped in manifest.databases(vault, found).items():
        for schema in schemas.SCHEMAS:
            mine = schema is schemas.AUTH
            tables = tuple(t for t in dumped.tables if (t.name in AUTH_TABLES) == mine)
            if not tables:
                continue
            part = replace(
                dumped,
                tables=tables,
                counters=tuple(c for c in dumped.counters if (c.table in AUTH_TABLES) == mine),
                revisions={
                    s.name: dumped.revisions[s.name] if s is schema else None for s in schemas.SCHEMAS
                },
            )
            result.append(Part(schema, part, f"{BACKUPS}{found.name}/{name}"))
    return sorted(result, key=lambda part: part.schema is schemas.AUTH)


def build(connection: psycopg.Connection[Any], alchemy: Any, these: Sequence[Part]) -> None:
    """Empty tables of the revisions of the backup."""
    for part in these:
        rebuilding.build(connection, alchemy, part.dumped)


def fill(connection: psycopg.Connection[Any], alchemy: Any, these: Sequence[Part], vault: Vault) -> list[str]:
    """Load the rows into tables that `build` made, then upgrade to what this MLflow needs.

    Names of tables that are not MLflow's: somebody had added them by hand, and they stay out. `Fatal` where
    a digest or a number of rows is not the backup's.
    """
    there = {t.name for t in dump.tables(connection)}
    strange = []
    for part in these:
        strange += [t.name for t in part.dumped.tables if t.name not in there]
        dumped = replace(
            part.dumped,
            tables=tuple(t for t in part.dumped.tables if t.name in there),
            counters=tuple(c for c in part.dumped.counters if c.table in there),
        )
        dump.load(connection, dumped, part.reading(vault))
    for part in these:
        schemas.upgrade(alchemy, part.schema)
    return strange


def refuse_used(connection: psycopg.Connection[Any], what: str) -> None:
    """`BadInput` unless the database is empty, or has only what a first start and a smoke test leave."""
    there = {t.name for t in dump.tables(connection)}
    apart = (SMOKE_TEST,)
    within = "select true from {} join experiments e using (experiment_id) where e.name <> %s"
    used = [
        ("experiments", "select true from experiments where experiment_id <> 0 and name <> %s", apart),
        ("runs", within.format("runs"), apart),
        ("logged_models", within.format("logged_models"), apart),
        ("workspaces", "select true from workspaces where name <> 'default'", ()),
        ("users", "select true from users offset 1", ()),
        *((table, f"select true from {table}", ()) for table in MADE),  # noqa: S608 - ours
    ]
    for table, query, values in used:
        if table in there and connection.execute(f"{query} limit 1", values).fetchone():
            raise BadInput(
                f"the {what} database is not empty: it has {table}",
                remedy="restore into a new platform, before documents are applied and anything is logged",
            )


def clear_work(connection: psycopg.Connection[Any]) -> None:
    """No background work of the source's goes on here."""
    there = {t.name for t in dump.tables(connection)}
    for table in WORK:
        if table in there:
            connection.execute(f"delete from {table}")  # noqa: S608 - ours


def highest_granted(connection: psycopg.Connection[Any]) -> int:
    """The highest id of an experiment that a grant names; 0 where none does."""
    there = {t.name for t in dump.tables(connection)}
    if "role_permissions" not in there:
        return 0
    row = connection.execute(
        "select coalesce(max(resource_pattern::bigint), 0) from role_permissions"
        " where resource_type = 'experiment' and resource_pattern ~ '^[0-9]{1,10}$'"
        " and resource_pattern::bigint < %s",
        (_LARGEST_ID,),
    ).fetchone()
    return int(row[0]) if row else 0


def advance_experiments(connection: psycopg.Connection[Any], beyond: int) -> None:
    """No new experiment gets an id up to `beyond`: whom a grant names it would inherit access."""
    connection.execute(
        "select setval(s, greatest(%s, (select last_value from pg_sequences where"
        " schemaname = current_schema() and sequencename = split_part(s, '.', 2)), 1))"
        " from pg_get_serial_sequence('experiments', 'experiment_id') s",
        (beyond,),
    )


def set_admin(connection: psycopg.Connection[Any], username: str, password: str) -> None:
    """The target's administrator logs in with the target's password, whatever the backup's was."""
    from werkzeug.security import generate_password_hash

    connection.execute(
        "insert into users (username, password_hash, is_admin) values (%s, %s, true)"
        " on conflict (username) do update set password_hash = excluded.password_hash, is_admin = true",
        (username, generate_password_hash(password)),
    )


def mark(connection: psycopg.Connection[Any], backup: str) -> None:
    """Note that this database has been filled, in the transaction that fills it."""
    connection.execute(_RESTORED)
    connection.execute("insert into mlplatform.restored (backup) values (%s)", (backup,))


def finish(connection: psycopg.Connection[Any]) -> None:
    """Note that the whole restore is done: from now on the database counts as used."""
    connection.execute("update mlplatform.restored set finished = now()")


def is_filled(connection: psycopg.Connection[Any], backup: str, *, ended: bool = False) -> bool:
    """Whether a restore of this backup, which has not ended unless `ended`, has filled the database."""
    if connection.execute("select to_regclass('mlplatform.restored') is null").fetchone() == (True,):
        return False
    row = connection.execute(
        "select true from mlplatform.restored where backup = %s and (%s or finished is null)", (backup, ended)
    ).fetchone()
    return row is not None
