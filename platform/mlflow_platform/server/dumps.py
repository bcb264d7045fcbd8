"""The folder of dumps in the object store: made before a migration, the last few are kept."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import BadInput, PlatformError, Rejected
from mlflow_platform.server import dump
from mlflow_platform.server.database import say
from mlflow_platform.server.dump import Manifest, Table
from mlflow_platform.server.object_store import Folder

if TYPE_CHECKING:
    import psycopg

PLACE = "MLPLATFORM_DUMPS"
KEEP = "MLPLATFORM_DUMPS_KEEP"
#: Tables with as many bytes of rows are worth a line of their own.
LARGE = 64 * 1024 * 1024


def make(connection: psycopg.Connection[Any], revisions: Mapping[str, str | None]) -> bool:
    """Dump what the database holds; whether there was anything, and a place for it.

    An error says how to go on without: the migration must not begin on data that nobody has saved.
    """
    if not dump.tables(connection):
        return False
    if not os.environ.get(PLACE):
        say(f"no dump is made: {PLACE} is not set")
        return False
    began = time.monotonic()
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{next(filter(None, revisions.values()), 'none')}"
    try:
        folder = place()
        say(f"dumping to {folder}{name}/")
        with dump.snapshot(connection):
            about = Manifest(
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                mlflow=importlib.metadata.version("mlflow"),
                postgres=connection.info.parameter_status("server_version") or "",
                revisions=dict(revisions),
            )
            done = dump.write(connection, about, lambda stream: folder.writing(f"{name}/{stream}"), _large)
    except PlatformError as error:
        raise type(error)(
            f"no dump could be made, nothing was changed: {error.problem.what}",
            remedy=f"{error.problem.remedy}; to migrate without one: --set database.dumps.enabled=false",
        ) from error
    say(f"dumped {_amount(done)} in {time.monotonic() - began:.1f} s: {name}")
    return True


def place() -> Folder:
    """`BadInput` where no place for dumps is set."""
    uri = os.environ.get(PLACE)
    if not uri:
        raise BadInput(f"{PLACE} is not set", remedy="deploy with database.dumps.enabled=true")
    return Folder.of(uri)


def manifest(name: str) -> Manifest:
    """`BadInput` if there is no such dump, or it was not finished."""
    folder = place()
    try:
        with folder.reading(f"{name}/{dump.MANIFEST}") as source:
            return Manifest.parse(source.read())
    except Rejected as error:
        if error.code not in ("NoSuchKey", "404"):
            raise
        raise BadInput(
            f"there is no dump {name} in {folder}",
            remedy=f"there are: {', '.join(finished(folder)) or 'none'}",
        ) from error


def finished(folder: Folder) -> list[str]:
    """Names of the dumps that have a manifest, oldest first."""
    end = f"/{dump.MANIFEST}"
    return sorted(n.removesuffix(end) for n in folder.names() if n.endswith(end) and n.count("/") == 1)


def show() -> None:
    """Print the dumps, oldest first."""
    for name in finished(place()):
        found = manifest(name)
        say(f"{name}  MLflow's revisions {dict(found.revisions)}, {_amount(found)}")


def prune() -> None:
    """Keep the newest dumps; unfinished ones go. To be called while nobody else writes one (the lock).

    A store that does not let go of old ones is said and nothing more: the migration has succeeded.
    """
    try:
        folder = place()
        kept = set(finished(folder)[-int(os.environ.get(KEEP, "3")) :])
        folder.delete([n for n in folder.names() if n.split("/")[0] not in kept])
        folder.abort_uploads()
    except PlatformError as error:
        say(f"warning: old dumps stay: {error.problem.what}")


def _amount(found: Manifest) -> str:
    return f"{len(found.tables)} tables, {found.rows:,} rows, {found.size / 2**20:,.1f} MiB"


def _large(table: Table) -> None:
    if table.size >= LARGE:
        say(f"  {table.name}: {table.rows:,} rows, {table.size / 2**20:,.0f} MiB")
