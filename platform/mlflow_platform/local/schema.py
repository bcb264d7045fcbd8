"""Schema revisions: the head that the installed MLflow needs, read from its migration scripts without
importing it (seconds), and the one a database has."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    import psycopg

#: Database -> (Alembic's version table, MLflow's folder of migration scripts):
#: mlflow/store/db_migrations/env.py (default table) and mlflow/server/auth/db/migrations/env.py.
MIGRATIONS = {
    "mlflow": ("alembic_version", "store/db_migrations/versions"),
    "mlflow_auth": ("alembic_version_auth", "server/auth/db/migrations/versions"),
}
_REVISION = re.compile(r"^(revision|down_revision)\b[^=\n]*=\s*(.+)$", re.MULTILINE)
_QUOTED = re.compile(r"""["']([0-9a-f]+)["']""")


def head(database: str) -> str:
    """The revision that the installed MLflow's code needs in this database (a key of `MIGRATIONS`)."""
    package = importlib.util.find_spec("mlflow")
    if package is None or not package.submodule_search_locations:
        raise BadInput("mlflow is not installed", remedy="install it: pip install 'mlflow-platform[local]'")
    folder = Path(package.submodule_search_locations[0]) / MIGRATIONS[database][1]
    revisions: set[str] = set()
    parents: set[str] = set()
    for script in folder.glob("*.py"):
        for name, value in _REVISION.findall(script.read_text(encoding="utf-8")):
            (revisions if name == "revision" else parents).update(_QUOTED.findall(value))
    heads = revisions - parents
    if len(heads) != 1:
        raise BadInput(
            f"the migration scripts in {folder} have {len(heads)} heads, not one",
            remedy="reinstall mlflow",
        )
    return heads.pop()


def current(connection: psycopg.Connection, database: str) -> str | None:
    """The revision that a database has; None for an empty one."""
    from psycopg import errors, sql

    query = sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(MIGRATIONS[database][0]))
    try:
        row = connection.execute(query).fetchone()
    except errors.UndefinedTable:
        return None
    return None if row is None else str(row[0])
