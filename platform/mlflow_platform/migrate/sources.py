"""Which kind of source an address names."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow_platform.errors import BadInput
from mlflow_platform.migrate.staged import Staged

_KINDS = "give sqlite:////PATH/mlflow.db, the folder of a file store, or https://USER@HOST"


def open_source(
    address: str, work: Path, *, password: str | None = None, say: Callable[[str], None] = lambda _: None
) -> Staged:
    """Stage a source in the folder `work`. Raises `BadInput` for one that is none, or may not be read."""
    try:
        return _open(address, work, password, say)
    except OSError as error:
        if error.filename is None or error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # it is not the source
        raise BadInput(
            f"{error.filename}: {error.strerror}",
            remedy="run this as somebody who may read the source",
        ) from error


def _open(address: str, work: Path, password: str | None, say: Callable[[str], None]) -> Staged:
    scheme = urlsplit(address).scheme
    if scheme == "sqlite":
        from mlflow_platform.migrate.sqlite import open_sqlite

        say("copying and upgrading the database")
        return open_sqlite(Path(unquote(address.removeprefix("sqlite:///").split("?")[0])), work)
    if scheme.startswith("postgresql"):
        raise BadInput(
            "a database of Postgres is not moved by this command",
            remedy="take a backup there and restore it here: `mlplatform backup`; or name its server",
        )
    if scheme in ("http", "https"):
        from mlflow_platform.migrate.remote import open_remote

        return open_remote(address, work, password=password, say=say)
    if scheme in ("", "file"):
        path = Path(unquote(urlsplit(address).path) if scheme else address)
        if path.is_file():
            raise BadInput(f"{path} is a file", remedy=f"for a database give sqlite:///{path.absolute()}")
        from mlflow_platform.migrate.filestore import open_file_store

        say("reading the file store")
        return open_file_store(path, work)
    raise BadInput(f"{scheme}: is no source", remedy=_KINDS)
