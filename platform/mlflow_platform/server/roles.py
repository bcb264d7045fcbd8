"""Two database roles that take turns, so that a password is changed while servers use another one.

    python -m mlflow_platform.server.roles prepare    NEXT_USER, NEXT_PASSWORD: a login, ready to be used
    python -m mlflow_platform.server.roles retire     PREVIOUS_USER: logs in no more, its sessions end

Both are members of the role that owns MLflow's tables and become it at login (`alter role .. set role`),
so that what either makes belongs to the same owner, and either may migrate. The owner is whoever owns the
tables now: the first login of an installation, which the first rotation retires as a login.

libpq's variables (PGUSER, PGPASSWORD, ...) name a login that may alter roles. Each step may be repeated.
Passwords go to Postgres as SCRAM verifiers made here: its log may show statements, never a password.
Exit codes: 0 done, 1 failed, 64 usage.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, LiteralString

from mlflow_platform.errors import EXIT_USAGE, BadInput, Fatal, PlatformError, Rejected
from mlflow_platform.server.database import connected, lock, say
from mlflow_platform.server.schemas import TRACKING

if TYPE_CHECKING:
    import psycopg

#: How long to wait for Postgres, and for migration, backup and retention to end, in seconds.
PATIENCE = 600.0
#: How long sessions of a retired role may go on, in seconds: no server uses it any more.
SESSIONS_PATIENCE = 10.0
#: Of a role, apart from Postgres' own processes, some of which carry the first superuser's name.
_SESSIONS: LiteralString = "from pg_stat_activity where usename = %s and backend_type = 'client backend'"


def main(arguments: list[str]) -> int:
    """Exit code of `prepare` or `retire`."""
    try:
        match arguments:
            case ["prepare"]:
                prepare(os.environ["NEXT_USER"], os.environ["NEXT_PASSWORD"])
            case ["retire"]:
                retire(os.environ["PREVIOUS_USER"])
            case _:
                print("usage: python -m mlflow_platform.server.roles prepare|retire", file=sys.stderr)
                return EXIT_USAGE
    except PlatformError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def prepare(user: str, password: str, patience: float = PATIENCE) -> None:
    """Make or change the role so that it logs in with the password and acts as the owner; then try it."""
    import psycopg
    from psycopg.sql import SQL, Identifier, Literal

    with connected(time.monotonic() + patience) as connection:
        owner = owner_of_tables(connection)
        name, verifier = Identifier(user), _verifier(connection, user, password)
        try:
            with connection.transaction():
                if not connection.execute("select 1 from pg_roles where rolname = %s", (user,)).fetchone():
                    connection.execute(SQL("create role {}").format(name))
                member = connection.execute("select pg_has_role(%s, %s, 'MEMBER')", (user, owner)).fetchone()
                if member != (True,):
                    connection.execute(SQL("grant {} to {}").format(Identifier(owner), name))
                connection.execute(SQL("alter role {} set role {}").format(name, Identifier(owner)))
                connection.execute(
                    SQL("alter role {} login password {} valid until 'infinity'").format(
                        name, Literal(verifier)
                    )
                )
        except psycopg.errors.InsufficientPrivilege as error:
            raise _may_not(user, error) from None
    try:
        with psycopg.connect(user=user, password=password, connect_timeout=10) as tried:
            acting = tried.execute("select current_user").fetchone()
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[-1]
        raise Rejected(
            f"role {user} cannot log in: {reason}", remedy="see the server's pg_hba.conf"
        ) from None
    if acting != (owner,):
        raise Fatal(f"role {user} does not act as {owner}, which owns MLflow's tables")
    say(f"role {user} logs in and acts as {owner}")


def retire(user: str, patience: float = PATIENCE) -> None:
    """Take the role's password away, then end what sessions it has left, when nothing long runs in one."""
    import psycopg
    from psycopg.sql import SQL, Identifier

    deadline = time.monotonic() + patience
    with connected(deadline) as connection:
        if connection.execute("select session_user").fetchone() == (user,):
            raise BadInput(f"role {user} is the one that this login uses: it is not retired")
        # A migration, backup or retention run that began with the old login finishes with it.
        lock(connection, deadline)
        try:
            if connection.execute("select 1 from pg_roles where rolname = %s", (user,)).fetchone():
                connection.execute(SQL("alter role {} password null").format(Identifier(user)))
            quiet = time.monotonic() + SESSIONS_PATIENCE
            while _sessions(connection, user) and time.monotonic() < quiet:
                time.sleep(0.5)
            ended = connection.execute(
                SQL("select count(pg_terminate_backend(pid)) " + _SESSIONS), (user,)
            ).fetchone()
        except psycopg.errors.InsufficientPrivilege as error:
            raise _may_not(user, error) from None
    say(f"role {user} has no password any more; sessions ended: {ended[0] if ended else 0}")


def owner_of_tables(connection: psycopg.Connection[Any]) -> str:
    """The role that owns MLflow's schema; `Fatal` where there is none yet."""
    found = connection.execute(
        "select pg_get_userbyid(relowner) from pg_class where oid = to_regclass(%s)",
        (TRACKING.version_table,),
    ).fetchone()
    if found is None:
        raise Fatal("the database holds no tables of MLflow", remedy="deploy first")
    return str(found[0])


def _verifier(connection: psycopg.Connection[Any], user: str, password: str) -> str:
    """As `psql`'s \\password makes it: salted and hashed on this side (libpq, PQencryptPasswordConn)."""
    encoded = connection.pgconn.encrypt_password(password.encode(), user.encode(), b"scram-sha-256")
    return encoded.decode()


def _sessions(connection: psycopg.Connection[Any], user: str) -> bool:
    from psycopg.sql import SQL

    return connection.execute(SQL("select 1 " + _SESSIONS), (user,)).fetchone() is not None


def _may_not(user: str, error: psycopg.Error) -> Rejected:
    return Rejected(
        f"this login may not change role {user}: {error.diag.message_primary}",
        remedy="name a Secret with an administrator's login: --administrator-secret (docs/rotation.md)",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
