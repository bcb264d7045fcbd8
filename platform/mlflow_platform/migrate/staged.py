"""A source as it is moved: an SQLite database of the installed MLflow's schema; where its artifacts are."""

from __future__ import annotations

import logging
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import BadInput, Fatal
from mlflow_platform.migrate.report import Left

if TYPE_CHECKING:
    from mlflow_platform.migrate.places import Reader

FILE = "staged.db"
#: Of ids that are made here.
_NAMESPACE = uuid.UUID("6f1b6c0e-3b1f-4e55-9d0a-7a4c4b8f2d10")


@dataclass
class Staged:
    """What `open_*` made of a source. `name` tells sources apart, and holds no login."""

    name: str
    file: Path
    base: Path | None = None
    """The folder that relative artifact addresses are relative to; None for another machine's."""
    proxied: Callable[[], Reader] | None = None
    """Reads what `mlflow-artifacts:` addresses name, where the source itself has a way."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """Artifact addresses that the source is known to be wrong about -> where it is."""
    left: list[Left] = field(default_factory=list)
    """What could not be read."""
    unseen: Sequence[str] = ()
    """What may be at the source, and cannot be asked for."""

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """The database. Text that is no UTF-8 comes with U+FFFD in its place."""
        connection = sqlite3.connect(self.file)
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        with closing(connection):
            yield connection


def columns(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Table -> its columns, without generated ones."""
    tables = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
    return {
        name: [row[1] for row in connection.execute(f'pragma table_xinfo("{name}")') if row[6] == 0]
        for (name,) in tables
        if not name.startswith("sqlite_")
    }


def rows(
    connection: sqlite3.Connection, table: str, names: Sequence[str], where: str = ""
) -> Iterator[tuple[Any, ...]]:
    """The rows of a table, one after the other."""
    listed = ", ".join(f'"{name}"' for name in names)
    return connection.execute(f'select {listed} from "{table}" {where}')


def upgrade(file: Path, what: str) -> None:
    """Bring a database to the installed MLflow's schema, by its own `db upgrade`.

    `BadInput` for one that is not MLflow's, or a newer MLflow's. `what` names the source.
    """
    import sqlalchemy
    from mlflow.store.db.utils import _upgrade_db

    from mlflow_platform.server import schemas

    with closing(sqlite3.connect(file)) as connection:
        try:
            tables = columns(connection)
        except sqlite3.DatabaseError as error:
            raise BadInput(
                f"{what} is no SQLite database: {error}", remedy="name MLflow's database"
            ) from None
        found = (
            connection.execute("select version_num from alembic_version").fetchone()
            if "alembic_version" in tables
            else None
        )
    if found is None or "experiments" not in tables:
        raise BadInput(
            f"{what} is not a database of MLflow 1.0 or newer: it has no schema revision",
            remedy="name the database of a tracking server; one of an older MLflow first needs "
            "`mlflow db upgrade` of its time",
        )
    schemas.refuse_unknown({"tracking": found[0], "auth": None})
    if found[0] == schemas.needed()["tracking"]:
        return
    engine = sqlalchemy.create_engine(f"sqlite:///{file}")
    try:
        with quiet():
            _upgrade_db(engine)
    except Exception as error:  # migration scripts raise what they like
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise Fatal(
            f"{what}: MLflow's own upgrade from revision {found[0]} failed: {first}",
            remedy="the source is as it was, only a copy was upgraded; see whether its `mlflow db upgrade` "
            "works on a copy of yours",
        ) from error
    finally:
        engine.dispose()


def create(file: Path) -> None:
    """An empty database of the installed MLflow's schema."""
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables

    engine = sqlalchemy.create_engine(f"sqlite:///{file}")
    try:
        with quiet():
            _initialize_tables(engine)
    finally:
        engine.dispose()


@contextmanager
def quiet() -> Iterator[None]:
    """Without MLflow's and Alembic's words about every step."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def settle_ids(staged: sqlite3.Connection, source: str) -> None:
    """Give datasets and inputs ids that follow from what they are and from the source, where it tells none: a
    second reading finds the same, and another source, whose experiments have the same ids, others."""
    for own, *key in staged.execute(
        "select dataset_uuid, experiment_id, name, digest from datasets"
    ).fetchall():
        new = str(uuid.uuid5(_NAMESPACE, "\0".join(map(str, (source, *key)))))
        staged.execute("update datasets set dataset_uuid = ? where dataset_uuid = ?", (new, own))
        staged.execute(
            "update inputs set source_id = ? where source_type = 'DATASET' and source_id = ?", (new, own)
        )
        staged.execute("update logged_model_metrics set dataset_uuid = ? where dataset_uuid = ?", (new, own))
    for own, *key in staged.execute(
        "select input_uuid, source_type, source_id, destination_type, destination_id from inputs"
    ).fetchall():
        new = str(uuid.uuid5(_NAMESPACE, "\0".join(map(str, (source, *key)))))
        staged.execute("update inputs set input_uuid = ? where input_uuid = ?", (new, own))
        staged.execute("update input_tags set input_uuid = ? where input_uuid = ?", (new, own))
    staged.commit()
