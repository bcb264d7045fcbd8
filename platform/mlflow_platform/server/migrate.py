"""Brings the schemas of tracking and auth to what the installed MLflow needs: both, or none.

MLflow migrates each on a connection of its own, so a failure of the second leaves the first
ahead, and neither the old nor the new server starts. Postgres can roll back DDL: here both run in
one transaction on one connection, and a failure leaves the database as it was. Both schemas live
in one database, in MLflow's own version tables. Data that are there are dumped first.

    python -m mlflow_platform.server.migrate run        waits for Postgres, dumps, migrates, builds indexes
    python -m mlflow_platform.server.migrate wait       returns when the schemas are what MLflow needs
    python -m mlflow_platform.server.migrate dumps      lists the dumps
    python -m mlflow_platform.server.migrate restore DUMP [--replace]
                                                        brings a dump back (see restore.py)

The connection comes from libpq's variables (PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE,
PGSSLMODE, ...), so that no URI ever holds a password. MLPLATFORM_DUMPS is where dumps are kept
(s3://BUCKET/PREFIX; unset: none is made) and MLPLATFORM_DUMPS_KEEP how many (default 3). Exit
codes: 0 done, 1 failed, 64 usage.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import EXIT_USAGE, PlatformError, Transient
from mlflow_platform.server import dumps, restore
from mlflow_platform.server.database import connected, lock, refuse_encoding, say, transaction
from mlflow_platform.server.schemas import (
    SCHEMAS,
    build_indexes,
    current,
    needed,
    refuse_unknown,
    upgrade,
)

if TYPE_CHECKING:
    import psycopg

#: How long `run` waits for Postgres and for the lock, and `wait` for the schema, in seconds.
PATIENCE = 1800.0
#: The longest pause before the migration is tried again, in seconds; the first is a second.
PAUSE = 15.0


def main(arguments: list[str]) -> int:
    """Exit code of a command."""
    try:
        match arguments:
            case ["run"]:
                run()
            case ["wait"]:
                wait()
            case ["dumps"]:
                dumps.show()
            case ["restore", name] | ["restore", name, "--replace"]:
                restore.restore(name, replace="--replace" in arguments)
            case _:
                usage = "run|wait|dumps|restore DUMP [--replace]"
                print(f"usage: python -m mlflow_platform.server.migrate {usage}", file=sys.stderr)
                return EXIT_USAGE
    except PlatformError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(patience: float = PATIENCE) -> None:
    """Wait for Postgres (`patience` in seconds), then dump, migrate and index, alone under the lock.

    What passes (a table in use, Postgres restarting) is tried again until the patience ends: `Transient`.
    """
    deadline = time.monotonic() + patience
    pause, dumped = 1.0, False
    while True:
        try:
            with connected(deadline) as connection:
                refuse_encoding(connection)
                say("waiting for the lock of migration, backup and retention")
                lock(connection, deadline)
                found = current(connection)
                if found == needed():
                    say("both schemas are current")
                else:
                    refuse_unknown(found)
                    dumped = dumped or dumps.make(connection, found)
                    migrate(connection)
                    if dumped:
                        dumps.prune()
                build_indexes(connection)
            break
        except Transient as error:
            if time.monotonic() > deadline:
                raise
            say(f"{error}\ntrying again in {pause:.0f} s")
        time.sleep(pause)
        pause = min(pause * 2, PAUSE)
    say("done")


def wait(patience: float = PATIENCE) -> None:
    """Return when both schemas are what the installed MLflow needs; `Transient` after `patience` seconds."""
    deadline = time.monotonic() + patience
    wanted = needed()
    said: dict[str, str | None] | None = None
    while True:
        try:
            with connected(deadline) as connection:
                found = current(connection)
        except Transient:
            if time.monotonic() > deadline:
                raise
            continue
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


def migrate(connection: psycopg.Connection[Any]) -> None:
    """Both schemas to their heads in one transaction, which any error rolls back.

    `Transient` if a table stayed in use or the connection broke, else `Fatal`.
    """
    with transaction(connection) as (alchemy, step):
        for schema in SCHEMAS:
            step(f"the migration of {schema.name} failed, nothing was changed")
            say(f"migrating {schema.name}")
            upgrade(alchemy, schema)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
