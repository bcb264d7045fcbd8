"""Postgres directly: connections for work that MLflow's API has no call for."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import Blocked, Fatal, PlatformError, Transient
from mlflow_platform.server.database import try_lock

if TYPE_CHECKING:
    import psycopg

_CONNECT_TIMEOUT = 10
#: Pause between two tries to take a lock that is held, in seconds.
_LOCK_PAUSE = 0.5


@dataclass(frozen=True)
class Database:
    """Where MLflow's tracking database is. `repr` shows no password.

    An empty `uri` leaves everything to libpq's variables (PGHOST, PGUSER, PGPASSWORD, ...).
    """

    uri: str = field(default="", repr=False)

    def connect(self, *, autocommit: bool = False, statement_timeout: float = 0.0) -> psycopg.Connection[Any]:
        """A connection; `statement_timeout` in seconds, 0 for none. Raises `Transient` or `Fatal`.

        Waiting for somebody's lock ends after five seconds, so that nobody queues behind us for long.
        """
        import psycopg

        options = f"-c statement_timeout={int(statement_timeout * 1000)} -c lock_timeout=5000"
        with translated():
            return psycopg.connect(
                re.sub(r"^postgresql\+\w+:", "postgresql:", self.uri),
                autocommit=autocommit,
                connect_timeout=_CONNECT_TIMEOUT,
                application_name="mlplatform",
                options=options,
            )

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Database | None:
        """The database that a server with this environment uses; None where it names none."""
        uri = environment.get("MLFLOW_BACKEND_STORE_URI", "")
        if uri.startswith("postgresql") or (not uri and environment.get("PGHOST")):
            return cls(uri)
        return None


@contextmanager
def translated() -> Iterator[None]:
    """Errors of Postgres as the platform's own: a lost connection is `Transient`, all else `Fatal`."""
    import psycopg

    try:
        yield
    except (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable) as error:
        raise Transient(f"Postgres: {_first_line(error)}", remedy="run it again") from error
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable) as error:
        remedy = "use the login that owns MLflow's tracking database"
        raise Fatal(f"Postgres: {_first_line(error)}", remedy=remedy) from error
    except psycopg.OperationalError as error:
        text = _first_line(error)
        if "authentication failed" in text or "does not exist" in text:
            raise Fatal(f"Postgres: {text}", remedy="correct the login or the database's name") from error
        remedy = "check that Postgres runs and can be reached; then run it again"
        raise Transient(f"Postgres: {text}", remedy=remedy) from error
    except psycopg.Error as error:
        raise Fatal(f"Postgres: {_first_line(error)}", remedy="please report this as a bug") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines and "connection" in lines[0] else (lines or [type(error).__name__])[0]


@contextmanager
def exclusive(
    database: Database, *, patience: float = 30.0, waiting: Callable[[], None] = lambda: None
) -> Iterator[psycopg.Connection[Any]]:
    """Hold the lock by which migration, backup and retention exclude each other, on a connection of its own.

    Raises `Blocked` where it is not free within `patience` seconds. The connection must not go through a
    pooler: the lock belongs to the session.
    """
    connection = database.connect(autocommit=True)
    try:
        deadline = time.monotonic() + patience
        with translated():
            while not try_lock(connection):
                if time.monotonic() > deadline:
                    raise Blocked(
                        "a migration, a backup or another retention run is at work on this database",
                        remedy="run it again when that has ended",
                    )
                waiting()
                time.sleep(_LOCK_PAUSE)
        yield connection
    finally:
        connection.close()


def identity(connection: psycopg.Connection[Any]) -> str:
    """What a copy of the database does not share: the server's system identifier, the database's oid."""
    import psycopg

    try:
        with connection.transaction():
            system = connection.execute("select system_identifier::text from pg_control_system()").fetchone()
    except psycopg.errors.InsufficientPrivilege:
        system = ("unknown",)
    row = connection.execute(
        "select oid::text from pg_database where datname = current_database()"
    ).fetchone()
    return f"{system[0] if system else ''}/{row[0] if row else ''}"


def lost(error: PlatformError) -> bool:
    """Whether the connection is gone, so that the whole has to begin again on a new one."""
    import psycopg

    cause = error.__cause__
    return isinstance(cause, psycopg.OperationalError) and not isinstance(
        cause,
        psycopg.errors.DeadlockDetected | psycopg.errors.LockNotAvailable | psycopg.errors.QueryCanceled,
    )
