"""Tries an external database and bucket from inside the cluster, before anything is deployed on them.

    python -m mlflow_platform.server.preflight

runs as a Job of `mlplatform deploy`, because the machine that deploys may not reach them. The database is
that of libpq's variables, if PGHOST is set; MLPLATFORM_CONNECTIONS is what the value database.maxConnections
says that it allows, on which rendering has counted. The bucket is that of MLFLOW_ARTIFACTS_DESTINATION, if
it is set. All that is wrong is said at once. Exit codes: 0 all is well, 1 something is not.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import BadDocuments, PlatformError, Problem
from mlflow_platform.server import database, schemas
from mlflow_platform.server.object_store import Folder

if TYPE_CHECKING:
    import psycopg

#: The oldest Postgres that its makers still mended when this was written (2026); MLflow's schema itself needs
#: stored generated columns, of 12 (store/db_migrations, spans.duration_ns).
OLDEST_POSTGRES = 14
#: How long to go on when the database does not answer, in seconds: a new pod's network may come late.
PATIENCE = 15.0


def main() -> int:
    found = []
    if os.environ.get("PGHOST"):
        found += check_database(int(os.environ.get("MLPLATFORM_CONNECTIONS", "0")), PATIENCE)
    if uri := os.environ.get("MLFLOW_ARTIFACTS_DESTINATION"):
        found += check_bucket(uri)
    if found:
        print(f"error: {BadDocuments(found)}", file=sys.stderr)
        return 1
    return 0


def check_database(said: int, patience: float) -> list[Problem]:
    """What keeps MLflow from living there. `said` is how many connections it is said to allow."""
    try:
        with database.connected(time.monotonic() + patience) as connection:
            user = connection.info.user
            found = [*_fitness(connection), *_rights(connection), *_room(connection, said)]
    except PlatformError as error:
        return [error.problem]
    if not found:
        print(f"database: reached as {user}, UTF8, may make tables and schemas", flush=True)
    return found


def _fitness(connection: psycopg.Connection[Any]) -> Iterator[Problem]:
    try:
        database.refuse_encoding(connection)
        schemas.refuse_unknown(schemas.current(connection))
    except PlatformError as error:
        yield error.problem
    if connection.info.server_version < OLDEST_POSTGRES * 10000:
        version = connection.info.parameter_status("server_version")
        yield Problem(
            f"the database is Postgres {version}, {OLDEST_POSTGRES} or later is needed", "upgrade the server"
        )
    if connection.execute("select pg_is_in_recovery()").fetchone() == (True,):
        yield Problem("the database is a read-only standby", "name its primary in database.external.host")


def _rights(connection: psycopg.Connection[Any]) -> Iterator[Problem]:
    user, name, schema, there, tables, own = connection.execute(
        """
        select quote_ident(current_user), quote_ident(current_database()), coalesce(current_schema(), ''),
               has_database_privilege(current_database(), 'create'),
               coalesce(has_schema_privilege(current_schema(), 'create'), false),
               (select coalesce(string_agg(c.relname, ', ' order by c.relname), '') from pg_class c
                where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r'
                  and c.relname in ('experiments', 'runs', 'users', 'alembic_version', 'alembic_version_auth')
                  and not pg_has_role(c.relowner, 'usage'))
        """
    ).fetchall()[0]
    if not tables:
        yield Problem(
            f"{user} may not create tables in the schema {schema or 'public'}",
            f"as its owner: grant create on schema {schema or 'public'} to {user}",
        )
    if not there:
        yield Problem(
            f"{user} may not create schemas, in which the platform keeps its own tables",
            f"as its owner: grant create on database {name} to {user}",
        )
    if own:
        yield Problem(
            f"{user} does not own MLflow's tables ({own}): it could not migrate them",
            f"as their owner: reassign owned by OLD_ROLE to {user}",
        )


def _room(connection: psycopg.Connection[Any], said: int) -> Iterator[Problem]:
    """Server, database and role have each a limit; -1 is none (pg_database.datconnlimit)."""
    ((server, whole, role),) = connection.execute(
        """
        select current_setting('max_connections')::int,
               (select datconnlimit from pg_database where datname = current_database()),
               (select rolconnlimit from pg_roles where rolname = session_user)
        """
    ).fetchall()
    limits = {"max_connections": server, "the database's connection limit": whole, "the role's": role}
    for what, limit in limits.items():
        if 0 <= limit < said:
            yield Problem(
                f"{what} is {limit}, the value database.maxConnections says {said}",
                f"set database.maxConnections to {limit}: rendering then tells whether the servers fit",
            )


def check_bucket(uri: str) -> list[Problem]:
    """Whether an object can be written, listed, read and deleted there; it leaves none behind."""
    name, content = f"mlplatform/preflight-{secrets.token_hex(8)}", secrets.token_bytes(1024)
    try:
        folder = Folder.of(uri)
        with folder.writing(name) as out:
            out.write(content)
        try:
            with folder.reading(name) as source:
                same = source.read() == content
            listed = name in folder.names("mlplatform/preflight-")
        finally:
            folder.delete([name])
    except PlatformError as error:
        return [error.problem]
    if not (same and listed):
        wrong = "listed" if same else "read back as it was written"
        return [Problem(f"{folder}{name} was written, but not {wrong}", "is this an S3 store?")]
    print(f"bucket: {folder} takes, lists, gives and deletes objects", flush=True)
    return []


if __name__ == "__main__":
    sys.exit(main())
