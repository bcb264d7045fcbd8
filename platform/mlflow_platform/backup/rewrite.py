"""Stored addresses of artifacts, from where they were to where they are: every column that holds one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True, slots=True)
class Column:
    """A column with addresses and what it takes, 0 for any length; `where` chooses rows. `within`: the
    address is a part of JSON's text."""

    table: str
    name: str
    key: str
    limit: int = 0
    where: str = "true"
    within: bool = False


#: mlflow/store/tracking/dbmodels/models.py, model_registry and workspace, at the head of 3.17.2.
COLUMNS = (
    Column("experiments", "artifact_location", "experiment_id", 256),
    Column("runs", "artifact_uri", "run_uuid", 200),
    Column("logged_models", "artifact_location", "model_id", 1000),
    Column("model_versions", "source", "name", 500),
    Column("model_versions", "storage_location", "name", 500),
    # mlflow/tracing/constant.py: MLFLOW_ARTIFACT_LOCATION, and that of archived payloads.
    Column(
        "trace_tags",
        "value",
        "request_id",
        8000,
        "key in ('mlflow.artifactLocation', 'mlflow.trace.archiveLocation')",
    ),
    Column("datasets", "dataset_source", "dataset_uuid", within=True),
    Column("workspaces", "default_artifact_root", "name"),
    Column("workspaces", "trace_archival_location", "name"),
)


def spellings(moves: Mapping[str, str]) -> list[tuple[str, str]]:
    """(old, new) for every way in which an old root is written, the longest first: the first one that fits
    is the nearest. A folder is written with and without its scheme."""
    found = dict(moves)
    for old, new in moves.items():
        if old.startswith("file://"):
            found.setdefault(old.removeprefix("file://"), new.removeprefix("file://"))
    return sorted(((o, n) for o, n in found.items() if o != n), key=lambda pair: (-len(pair[0]), pair[0]))


def rewrite(connection: psycopg.Connection[Any], moves: Mapping[str, str]) -> int:
    """Let every address below an old root name the new one; how many did.

    Within the caller's transaction. Raises `BadInput` where a new address is longer than its column takes.
    """
    pairs = spellings(moves)
    if not pairs:
        return 0
    there = {
        (table, column)
        for table, column in connection.execute(
            "select table_name, column_name from information_schema.columns"
            " where table_schema = current_schema()"
        )
    }
    return sum(_column(connection, c, pairs) for c in COLUMNS if (c.table, c.name) in there)


def _column(connection: psycopg.Connection[Any], column: Column, pairs: Sequence[tuple[str, str]]) -> int:
    from psycopg import sql

    template, values = _within(pairs) if column.within else _whole(pairs)
    new = sql.SQL(template).format(c=sql.Identifier(column.name))
    parts = {
        "table": sql.Identifier(column.table),
        "column": sql.Identifier(column.name),
        "key": sql.Identifier(column.key),
        "new": new,
        "where": sql.SQL(column.where),
    }
    if column.limit:
        query = sql.SQL(
            "select {key}::text, length({new}) from {table}"
            " where {where} and {new} is distinct from {column} and length({new}) > %s limit 1"
        ).format(**parts)
        long = connection.execute(query, (*values, *values, *values, column.limit)).fetchone()
        if long is not None:
            raise BadInput(
                f"the artifact address of {long[0]} would be {long[1]} characters long, and "
                f"{column.table}.{column.name} takes {column.limit}",
                remedy="restore to a bucket and a prefix with shorter names",
            )
    update = sql.SQL(
        "update {table} set {column} = {new} where {where} and {new} is distinct from {column}"
    ).format(**parts)
    return connection.execute(update, (*values, *values)).rowcount


def _whole(pairs: Sequence[tuple[str, str]]) -> tuple[str, list[Any]]:
    """An expression for addresses: the root itself, or what is below it."""
    values: list[Any] = []
    text = "case"
    for old, new in pairs:
        text += " when {c} = %s or starts_with({c}, %s) then %s || substr({c}, %s)"
        values += [old, old + "/", new, len(old) + 1]
    return text + " else {c} end", values


def _within(pairs: Sequence[tuple[str, str]]) -> tuple[str, list[Any]]:
    """An expression for JSON's text: strings in it that are such addresses. What was replaced once is not
    replaced again, since the new address begins after a mark that no text holds."""
    values: list[Any] = []
    text = "{c}"
    for number, (old, _) in enumerate(pairs):
        for end in ('"', "/"):
            text = f"replace({text}, %s, %s)"
            values += [f'"{old}{end}', f'"\x01{number}\x01{end}']
    for number, (_, new) in enumerate(pairs):
        text = f"replace({text}, %s, %s)"
        values += [f"\x01{number}\x01", new]
    return text, values
