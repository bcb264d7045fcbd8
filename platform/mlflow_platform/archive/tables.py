"""Which rows belong to runs, logged models, traces and experiments: for export, fingerprint and restore.

One description serves MLflow's own tables and the temporary ones that a restore loads an archive into: the
statements name tables by a prefix, `public.` or `pg_temp.in_`. Ids are in the temporary tables `archive_run`,
`archive_model`, `archive_trace`, `archive_version` and `archive_experiment`, one column `id`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import Fatal

if TYPE_CHECKING:
    import psycopg

PUBLIC, LOADED = "public.", "pg_temp.in_"
#: What can be chosen, as retention calls it -> the name in temporary tables, files and folders.
KINDS = {
    "run": "run",
    "logged model": "model",
    "trace": "trace",
    "version": "version",
    "experiment": "experiment",
}
#: A model version's id, of the table `t`.
VERSION = "t.workspace || '/' || t.name || '/' || t.version"


@dataclass(frozen=True)
class Part:
    """Rows of one table that belong to things of one kind. `{s}`: the prefix of the tables' names."""

    kind: str
    owner: str
    """SQL for the id of the owner; `t` is the table."""
    where: str = "true"
    source: str = ""
    """More tables to join, with `on`."""


@dataclass(frozen=True)
class Table:
    """A table of MLflow's. `parents`: (columns, table, columns) without which a row cannot be restored;
    several columns have commas between them."""

    name: str
    parts: tuple[Part, ...]
    parents: tuple[tuple[str, str, str], ...] = ()
    locked: str = "rows"
    """How changes are held off while a purge compares: `rows`, the whole `table` where no foreign key holds
    off new rows, or `parent`, where rows are never changed and new ones wait for the parent's lock."""


def _plain(kind: str, column: str) -> tuple[Part, ...]:
    return (Part(kind, f"t.{column}"),)


def _links(name: str) -> tuple[Part, ...]:
    return (
        Part(name, "t.source_id", f"t.source_type = '{name}'"),
        Part(name, "t.destination_id", f"t.destination_type = '{name}'"),
    )


def _input_parts(source: str = "", t: str = "t") -> tuple[Part, ...]:
    return (
        Part("run", f"{t}.destination_id", f"{t}.destination_type = 'RUN'", source),
        Part("run", f"{t}.source_id", f"{t}.source_type in ('RUN_INPUT', 'RUN_OUTPUT')", source),
        Part(
            "model", f"{t}.destination_id", f"{t}.destination_type in ('MODEL_INPUT', 'MODEL_OUTPUT')", source
        ),
    )


_OF_RUN, _OF_TRACE = ("run_uuid", "runs", "run_uuid"), ("trace_id", "trace_info", "request_id")
_OF_REQUEST = ("request_id", "trace_info", "request_id")
_OF_MODEL = ("model_id", "logged_models", "model_id")
#: Nothing is scanned where no version is chosen.
_OF_VERSION = (Part("version", VERSION, "exists (select from pg_temp.archive_version)"),)
_NUMBER = "workspace,name,version"

#: In the order in which they are locked and restored: parents before children.
TABLES = (
    Table("experiments", _plain("experiment", "experiment_id::text")),
    Table("experiment_tags", _plain("experiment", "experiment_id::text")),
    Table(
        "datasets",
        (
            Part("experiment", "t.experiment_id::text", "a.whole"),
            Part(
                "run",
                "i.destination_id",
                "i.destination_type = 'RUN'",
                "join {s}inputs i on i.source_type = 'DATASET' and i.source_id = t.dataset_uuid",
            ),
        ),
        locked="parent",
    ),
    Table("runs", _plain("run", "run_uuid")),
    Table("logged_models", _plain("model", "model_id")),
    Table("trace_info", _plain("trace", "request_id")),
    Table("params", _plain("run", "run_uuid"), (_OF_RUN,)),
    Table("metrics", _plain("run", "run_uuid"), (_OF_RUN,), "parent"),
    Table("latest_metrics", _plain("run", "run_uuid"), (_OF_RUN,)),
    Table("tags", _plain("run", "run_uuid"), (_OF_RUN,)),
    Table("inputs", _input_parts(), locked="table"),
    Table("input_tags", _input_parts("join {s}inputs i on i.input_uuid = t.input_uuid", "i"), locked="table"),
    Table("logged_model_params", _plain("model", "model_id"), (_OF_MODEL,)),
    Table("logged_model_tags", _plain("model", "model_id"), (_OF_MODEL,)),
    Table(
        "logged_model_metrics",
        (Part("model", "t.model_id"), Part("run", "t.run_id")),
        (_OF_MODEL, ("run_id", "runs", "run_uuid")),
        "parent",
    ),
    Table("trace_tags", _plain("trace", "request_id"), (_OF_REQUEST,)),
    Table("trace_request_metadata", _plain("trace", "request_id"), (_OF_REQUEST,)),
    Table("trace_metrics", _plain("trace", "request_id"), (_OF_REQUEST,)),
    # Whoever writes spans locks trace_info first (mlflow/store/tracking/sqlalchemy_store.py, `log_spans`).
    Table("spans", _plain("trace", "trace_id"), (_OF_TRACE,), "parent"),
    Table("span_metrics", _plain("trace", "trace_id"), (_OF_TRACE,), "parent"),
    Table(
        "assessments",
        (
            Part("trace", "t.trace_id"),
            # Go with the run that made them (retention/purge.py).
            Part(
                "run",
                "substring(t.assessment_metadata from"
                ' \'"mlflow.assessment.sourceRunId": "([0-9a-f]{{32}})"\')',
                "t.assessment_metadata like '%%\"mlflow.assessment.sourceRunId\"%%'",
            ),
        ),
        (_OF_TRACE,),
    ),
    Table("review_queue_items", _plain("trace", "item_id"), (("queue_id", "review_queues", "queue_id"),)),
    Table("entity_associations", (*_links("run"), *_links("model"), *_links("trace")), locked="table"),
    Table("model_versions", _OF_VERSION, (("workspace,name", "registered_models", "workspace,name"),)),
    Table("model_version_tags", _OF_VERSION, ((_NUMBER, "model_versions", _NUMBER),)),
)

#: Tables of which a row may belong to two things, with their primary keys.
SHARED = {
    "inputs": ("source_type", "source_id", "destination_type", "destination_id"),
    "input_tags": ("input_uuid", "name"),
    "logged_model_metrics": ("model_id", "metric_name", "metric_timestamp_ms", "metric_step", "run_id"),
    "assessments": ("assessment_id",),
    "entity_associations": ("source_type", "source_id", "destination_type", "destination_id"),
}
#: Types of MLflow's columns -> Arrow's. Any other type is one that this was not written for.
ARROW = {
    "character varying": "string",
    "text": "string",
    "integer": "int32",
    "bigint": "int64",
    "double precision": "double",
    "boolean": "bool",
}


def prepare(connection: psycopg.Connection[Any]) -> None:
    """Empty tables of ids. They belong to this connection."""
    for kind in KINDS.values():
        whole = ", whole boolean not null default false" if kind == "experiment" else ""
        connection.execute(f"create temp table if not exists archive_{kind} (id text primary key{whole})")
        connection.execute(f"truncate pg_temp.archive_{kind}")


def columns(connection: psycopg.Connection[Any]) -> dict[str, dict[str, str]]:
    """Columns of every table with their Arrow types, without generated ones, in their order."""
    found: dict[str, dict[str, str]] = {table.name: {} for table in TABLES}
    query = (
        "select table_name, column_name, data_type from information_schema.columns"
        " where table_schema = 'public' and table_name = any(%s) and is_generated = 'NEVER'"
        " order by table_name, ordinal_position"
    )
    for table, column, kind in connection.execute(query, (list(found),)):
        if kind not in ARROW:
            raise Fatal(f"{table}.{column} is of a type that archives do not know: {kind}")
        found[table][column] = ARROW[kind]
    missing = [table for table, known in found.items() if not known]
    if missing:
        raise Fatal(f"the tracking database has no table {missing[0]}")
    return found


def select(table: Table, names: Sequence[str], schema: str) -> str:
    """The statement for all rows of a table that belong to what was chosen, each once, in the order in which
    they lie there: MLflow asks for many without an order, and they are to come back as they came."""
    listed = ", ".join(f't."{name}"' for name in names)
    if len(table.parts) == 1:
        return f"select {listed} {_from(table, table.parts[0], schema)} order by t.ctid"
    places = " union ".join(f"select t.ctid {_from(table, part, schema)}" for part in table.parts)
    return f"select {listed} from {schema}{table.name} t where t.ctid in ({places}) order by t.ctid"


def _from(table: Table, part: Part, schema: str) -> str:
    return (
        f"from {schema}{table.name} t {part.source.format(s=schema)}"
        f" join pg_temp.archive_{part.kind} a on a.id = {part.owner.format()} where {part.where.format()}"
    )


def fingerprints(
    connection: psycopg.Connection[Any],
    known: Mapping[str, Mapping[str, str]],
    schema: str = PUBLIC,
    *,
    lock: bool = False,
    shared: bool = True,
) -> dict[tuple[str, str], str]:
    """A fingerprint of all rows of each chosen thing, by (kind, id); a run's covers its logged models.

    `lock`: hold off changes of these rows until the transaction ends. `shared`: also rows that belong to
    other things as well, and go with any of them. It tells of accidents, not of forgers:
    64-bit sums of hashes of rows.
    """
    if lock:
        whole = ", ".join(f"{schema}{table.name}" for table in TABLES if table.locked == "table")
        connection.execute(f"lock table {whole} in share row exclusive mode")
    found: dict[tuple[str, str], list[Any]] = {}
    for kind in KINDS.values():
        for (own,) in connection.execute(f"select id from pg_temp.archive_{kind} order by id"):
            found[kind, own] = []
    for table in TABLES:
        if not shared and table.name in SHARED:
            continue
        for part in table.parts:
            if part.kind == "run" and table.name == "datasets":
                continue  # what a dataset says belongs to its experiment
            listed = ", ".join(f't."{name}"' for name in known[table.name])
            rows = f"select a.id, row({listed})::text as row {_from(table, part, schema)}"
            if lock and table.locked == "rows":
                rows += " order by 1 for update of t"
            statement = (
                f"select id, count(*), sum(hashtextextended(row, 0))::text from ({rows}) as x group by 1"
            )
            for own, count, total in connection.execute(statement):
                found[part.kind, own].append((table.name, part.owner, count, total))
    made = (
        "select a.id, m.model_id from pg_temp.archive_run a"
        f" join {schema}logged_models m on m.source_run_id = a.id"
        " join pg_temp.archive_model b on b.id = m.model_id order by 1, 2"
    )
    for run, model in connection.execute(made).fetchall():
        found["run", run].append((model, found["model", model]))
    return {key: hashlib.sha256(json.dumps(rows).encode()).hexdigest() for key, rows in found.items()}


def batches(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of up to `size` of these."""
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
