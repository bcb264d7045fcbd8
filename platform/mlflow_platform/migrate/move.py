"""A staged source into the platform: rows are loaded and compared, artifacts copied, rows inserted.

Nothing is visible before the last transaction. Whatever ends it earlier: the same command does what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_platform.adapters.postgres import Database, exclusive, translated
from mlflow_platform.backup import loading as restoring
from mlflow_platform.migrate import artifacts, catalog, homes, staged
from mlflow_platform.migrate.homes import Wishes
from mlflow_platform.migrate.loading import STAYING, Loading
from mlflow_platform.migrate.places import Places
from mlflow_platform.migrate.report import Moved
from mlflow_platform.migrate.staged import Staged
from mlflow_platform.retention import journal
from mlflow_platform.retention.roots import Roots
from mlflow_platform.server import schemas

if TYPE_CHECKING:
    import sqlite3

    import psycopg


@dataclass(frozen=True)
class Platform:
    """Where to move to. `auth`: where the logins are, None for the same database."""

    database: Database
    roots: Roots
    auth: Database | None = None


def move(
    platform: Platform,
    source: Staged,
    places: Places,
    wishes: Wishes,
    *,
    dry: bool = False,
    say: Callable[[str], None] = lambda _: None,
    step: Callable[[str], None] = lambda _: None,
) -> Moved:
    """Move everything that can come. What is here and equal is passed over.

    Raises `BadInput`, before anything is written, where something is here and differs.
    """
    found = Moved(source.name, dry, unseen=source.unseen)
    found.leave_all(source.left)
    granted = _granted(platform)
    with (
        source.connect() as origin,
        exclusive(platform.database, waiting=lambda: say("waiting for the lock")),
        platform.database.connect(autocommit=True) as connection,
        translated(),
    ):
        connection.execute("select set_config('search_path', 'public', false)")
        journal.check_revision(connection)
        with connection.transaction(force_rollback=dry):
            journal.check_revision(connection, lock=True)
            installation = journal.open_journal(connection)
            decided = homes.decide(
                connection, origin, source.name, wishes, granted=granted, workspaces=_workspaces(origin)
            )
            found.experiments = {str(old): str(new) for old, new in decided.ids.items()}
            homes.index_addresses(origin, decided)
            loading = Loading(connection, origin, decided, found, catalog.tables(connection))
            loading.load(say)
            loading.compare()
            if dry:
                artifacts.copy(origin, places, platform.roots, found, say)
                loading.insert()
                return found
            homes.keep(connection, source.name, decided)
        step("decided")
        artifacts.copy(origin, places, platform.roots, found, say)
        step("artifacts copied")
        say("inserting rows")
        with connection.transaction():
            journal.check_unchanged(connection, installation)
            # Nobody makes what we have found free; those who try wait until this has ended.
            connection.execute(
                "lock table public.experiments, public.registered_models, public.workspaces"
                " in share row exclusive mode"
            )
            loading.compare()
            loading.insert()
            _not_purged(connection)
            step("before commit")
        step("moved")
        schemas.build_indexes(connection)
    return found


def _granted(platform: Platform) -> int:
    where = platform.auth or platform.database
    with closing(where.connect(autocommit=True)) as connection, translated():
        return restoring.highest_granted(connection)


def _workspaces(origin: sqlite3.Connection) -> set[str]:
    """All that something which moves is in."""
    found: set[str] = set()
    for table, columns in staged.columns(origin).items():
        if "workspace" in columns and table not in STAYING:
            found |= {row[0] for row in origin.execute(f'select distinct workspace from "{table}"')}
    return found


def _not_purged(connection: psycopg.Connection[Any]) -> None:
    """What retention had once purged here, and comes again, has objects that stay."""
    for kind, query in {
        "run": "select run_uuid from pg_temp.in_runs",
        "logged model": "select model_id from pg_temp.in_logged_models",
        "trace": "select request_id from pg_temp.in_trace_info",
    }.items():
        connection.execute(
            "update mlplatform.purged set state = 'done', problem = 'moved in again'"
            f" where kind = %s and id in ({query})",
            (kind,),
        )
