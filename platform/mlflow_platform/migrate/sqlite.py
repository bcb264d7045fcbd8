"""A source that is an SQLite database: a copy of one moment, which is then upgraded. The source stays."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from mlflow_platform.errors import BadInput
from mlflow_platform.migrate.staged import FILE, Staged, upgrade

#: Pages copied at once; a server that writes meanwhile lets the copy begin anew, as SQLite's backup does.
_PAGES = 4096


def open_sqlite(path: Path, work: Path) -> Staged:
    """Copy and upgrade. Raises `BadInput` for what is no database of MLflow's, or where it does not fit."""
    source = path.absolute()
    if not source.is_file():
        raise BadInput(
            f"{source}: there is no such file", remedy="name the database: sqlite:////PATH/mlflow.db"
        )
    size = source.stat().st_size
    free = shutil.disk_usage(work).free
    if free < 3 * size:  # the copy, and what upgrading rewrites
        raise BadInput(
            f"{work} has {free:,} bytes free; copying and upgrading {source} takes {3 * size:,}",
            remedy="name a folder with more room by TMPDIR",
        )
    file = work / FILE
    try:
        with closing(_read_only(source)) as old, closing(sqlite3.connect(file)) as new:
            old.backup(new, pages=_PAGES)
    except sqlite3.Error as error:
        raise BadInput(
            f"{source} cannot be read as an SQLite database: {error}",
            remedy="name MLflow's database file; it is copied, never changed",
        ) from None
    upgrade(file, str(source))
    store = source.parent / "mlartifacts"
    moved = {"mlflow-artifacts:": str(store)} if store.is_dir() else {}
    return Staged(f"sqlite:///{source}", file, base=source.parent, moved=moved)


def _read_only(path: Path) -> sqlite3.Connection:
    """The database, read-only. With a write-ahead log in a folder that may not be written to, SQLite can only
    read what nobody writes to; where there is a log, somebody may."""
    address = f"file:{quote(str(path))}?mode=ro"
    connection = sqlite3.connect(address, uri=True)
    try:
        connection.execute("select count(*) from sqlite_master")
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(path.name + "-wal").exists():
            raise
        connection = sqlite3.connect(address + "&immutable=1", uri=True)
    return connection
