"""Sessions of the platform's own programs on MLflow's database: patient, alone under a lock, quick to let go.

The connection comes from libpq's variables (PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE,
PGSSLMODE, ...), so that no URI ever holds a password.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import BadInput, Fatal, PlatformError, Rejected, Transient

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.engine import Connection

#: Migration, backup and retention exclude each other by this advisory lock (ASCII of "mlplatfo").
LOCK = 0x6D6C706C6174666F
#: Any connection of SQLAlchemy's dialect for psycopg 3, told nothing: libpq asks its environment.
FROM_ENVIRONMENT = "postgresql+psycopg://"
#: How long a statement of the migration may queue for a table that somebody uses: meanwhile every later
#: select queues behind it. More than Postgres' deadlock_timeout (1 s), after which an autovacuum gives way.
LOCK_TIMEOUT = "2s"
#: What each session of ours sets. A migration takes as long as it takes; a killed one is noticed while a
#: statement runs, and a vanished node within a minute, so that its locks do not outlive it.
SESSION = {
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "0",
    "client_connection_check_interval": "2s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
#: How long to go on when Postgres answers but refuses the password, in seconds: whoever keeps Secret and role
#: alike may be a moment late.
REFUSED_PATIENCE = 30.0
#: SQLSTATEs after which the same migration may succeed: lock_not_available, deadlock_detected, and the
#: server going away (Postgres, appendix A, class 57P).
PASSING = ("55P03", "40P01", "57P01", "57P02", "57P03")


@contextlib.contextmanager
def connected(deadline: float) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit mode. Tries each second, because a first boot takes its time.

    `Transient` if there is none by the deadline, or if it breaks within the block; `Rejected` if the password
    is not that of the role.
    """
    import psycopg

    said, refused = "", 0.0
    while True:
        try:
            connection = psycopg.connect(
                autocommit=True, connect_timeout=5, application_name="mlplatform-migrate"
            )
            break
        except psycopg.OperationalError as error:
            reason = str(error).strip().splitlines()[-1]
            now = time.monotonic()
            # libpq gives no SQLSTATE of a connection that failed, so the words count (auth.c, auth_failed).
            refused = (refused or now) if "password authentication failed" in reason else 0.0
            if refused and now - refused >= REFUSED_PATIENCE:
                raise Rejected(
                    f"Postgres refuses the login: {reason}",
                    remedy="the Secret holds another password than the database: put back that of before",
                ) from error
            if now > deadline:
                raise Transient(
                    f"no connection to Postgres: {reason}", remedy="check PGHOST, the login and the network"
                ) from error
            if reason != said:
                say(f"waiting for Postgres: {reason}")
                said = reason
            time.sleep(1)
    try:
        with contextlib.closing(connection):
            for name, value in SESSION.items():
                connection.execute("select set_config(%s, %s, false)", (name, value))
            yield connection
    except psycopg.Error as error:
        raise plainly(error, "the database refused") from error


def plainly(error: Exception, what: str) -> PlatformError:
    """An error of Postgres as ours: `Transient` if it passes, else `Fatal`."""
    state = getattr(error, "sqlstate", None) or ""
    text = f"{what}: {str(error).strip().splitlines()[0] if str(error) else type(error).__name__}"
    if state in PASSING or (not state and _is_lost(error)):
        return Transient(text, remedy="nothing was changed; it may be run again")
    return Fatal(text, remedy="the servers that ran before can go on")


def _is_lost(error: Exception) -> bool:
    import psycopg

    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


def refuse_encoding(connection: psycopg.Connection[Any]) -> None:
    """MLflow fails on any but UTF8, with "cannot use a string pattern on a bytes-like object"."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise BadInput(
            f"the database's encoding is {encoding}, MLflow needs UTF8",
            remedy="create it with: create database NAME encoding 'UTF8' template template0",
        )


def try_lock(connection: psycopg.Connection[Any]) -> bool:
    """Whether the advisory lock was free; then it is the connection's, and freed with it."""
    return connection.execute("select pg_try_advisory_lock(%s)", (LOCK,)).fetchone() == (True,)


def lock(connection: psycopg.Connection[Any], deadline: float) -> None:
    """Take the advisory lock, as soon as it is free; `Transient` after the deadline."""
    while not try_lock(connection):
        if time.monotonic() > deadline:
            raise Transient(
                "a backup, a retention run or another migration holds the lock", remedy="run it again later"
            )
        time.sleep(1)


@contextlib.contextmanager
def transaction(
    connection: psycopg.Connection[Any],
) -> Iterator[tuple[Connection, Callable[[str], None]]]:
    """A transaction on an autocommit connection, as SQLAlchemy sees it; it queues for no table for long.

    The second value says what an error from then on means.
    """
    import sqlalchemy

    meaning = ["nothing was changed"]
    engine = sqlalchemy.create_engine(
        FROM_ENVIRONMENT, creator=lambda: connection, poolclass=sqlalchemy.StaticPool
    )
    try:
        connection.autocommit = False
        with engine.begin() as alchemy:
            connection.execute("select set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
            yield alchemy, meaning.append
    except PlatformError:
        raise
    except sqlalchemy.exc.DBAPIError as error:
        raise plainly(error.orig if isinstance(error.orig, Exception) else error, meaning[-1]) from error
    except Exception as error:  # migration scripts raise what they like
        raise plainly(error, meaning[-1]) from error
    if not connection.closed:
        connection.autocommit = True


def say(text: str) -> None:
    print(text, flush=True)
