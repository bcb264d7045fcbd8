"""Brings a dump back: the revision that it was made of is built, filled and checked, in one transaction.

Into an empty database, or, with `--replace`, in place of what is there. That is not deleted: its
tables move into a schema named mlplatform_replaced_<time>, to be dropped when nobody misses it.
Servers must be stopped before, because what they would write meanwhile belongs to neither.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import BadInput
from mlflow_platform.server import database, dump, dumps, schemas

if TYPE_CHECKING:
    import psycopg

    from mlflow_platform.server.dump import Manifest


def restore(name: str, *, replace: bool, patience: float = 300.0) -> None:
    """Restore the dump of that name; `BadInput` without a change if something is there and not `replace`."""
    manifest = dumps.manifest(name)
    folder = dumps.place()
    deadline = time.monotonic() + patience
    with database.connected(deadline) as connection:
        database.refuse_encoding(connection)
        database.lock(connection, deadline)
        schemas.refuse_unknown(manifest.revisions)
        there = [t.name for t in dump.tables(connection)]
        if there and not replace:
            raise BadInput(
                f"the database is not empty: it has {len(there)} tables",
                remedy="add --replace: they move into a schema of their own, nothing is deleted",
            )
        refuse_company(connection)
        with database.transaction(connection) as (alchemy, step):
            step(f"{name} was not restored, nothing was changed")
            aside = move_away(connection, there)
            build(connection, alchemy, manifest)
            dump.load(connection, manifest, lambda stream: folder.reading(f"{name}/{stream}"))
        schemas.build_indexes(connection)
    database.say(
        f"restored {manifest.rows:,} rows in {len(manifest.tables)} tables: {dict(manifest.revisions)}"
    )
    if aside:
        database.say(
            f"what was there is in the schema {aside}; when nobody misses it: drop schema {aside} cascade"
        )


def refuse_company(connection: psycopg.Connection[Any]) -> None:
    """`BadInput` while others of our role are connected: servers that would write into what is replaced."""
    row = connection.execute(
        """
        select count(*) from pg_stat_activity a join pg_roles r on r.oid = a.usesysid
        where a.datname = current_database() and a.pid <> pg_backend_pid()
          and a.backend_type = 'client backend' and (a.usename = session_user
            or (not r.rolsuper and pg_has_role(a.usesysid, current_user, 'member')))
        """
    ).fetchone()
    if row and row[0]:
        raise BadInput(
            f"{row[0]} other connections use the database",
            remedy="stop the servers first: kubectl scale deployment NAME-server --replicas=0",
        )


def move_away(connection: psycopg.Connection[Any], tables: list[str]) -> str:
    """Move tables, with their indexes and sequences, into a new schema; its name, empty if there are none."""
    from psycopg import sql

    if not tables:
        return ""
    aside = f"mlplatform_replaced_{datetime.now(UTC):%Y%m%dt%H%M%Sz}"
    connection.execute(sql.SQL("create schema {}").format(sql.Identifier(aside)))
    for name in tables:
        move = sql.SQL("alter table {} set schema {}")
        connection.execute(move.format(sql.Identifier(name), sql.Identifier(aside)))
    return aside


def build(connection: psycopg.Connection[Any], alchemy: Any, manifest: Manifest) -> None:
    """Empty tables of the dump's revisions, by MLflow's own migrations."""
    dumped = {t.name for t in manifest.tables}
    for schema in schemas.SCHEMAS:
        revision = manifest.revisions[schema.name]
        if revision is not None:
            schemas.upgrade(alchemy, schema, revision)
        elif schema is schemas.AUTH and "users" in dumped:
            schemas.upgrade(alchemy, schema, schemas.LEGACY_AUTH_REVISION)
            connection.execute(f"drop table {schema.version_table}")  # it was made without one
