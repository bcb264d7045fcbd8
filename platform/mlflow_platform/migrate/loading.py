"""The rows of a staged source: into temporary tables, fitted; compared with what is here; inserted."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import BadInput
from mlflow_platform.migrate import catalog, staged
from mlflow_platform.migrate.catalog import Column, Table
from mlflow_platform.migrate.homes import Homes, new_address, within_json
from mlflow_platform.migrate.report import Moved

if TYPE_CHECKING:
    import psycopg

#: Tables that stay behind -> what they hold and why; counted where they hold something.
STAYING = {
    "webhooks": ("webhooks", "their secrets are sealed with the source's key: declare them (kind Webhook)"),
    "secrets": ("gateway secrets", "they are sealed with the source's key: enter them anew"),
    "endpoints": ("gateway endpoints", "they need the gateway's secrets: make them anew"),
    "model_definitions": ("gateway models", "they need the gateway's secrets: make them anew"),
    "budget_policies": ("gateway budgets", "they belong to the gateway's endpoints: make them anew"),
    "guardrails": ("gateway guardrails", "they belong to the gateway's endpoints: make them anew"),
    "users": ("logins", "passwords and grants are not moved: declare them (kinds MLflowUser and MLflowRole)"),
    "jobs": ("background jobs", "what they were for stays with the source"),
}
#: Tables that stay behind without a word: parts of the above, what follows from the rows, the platform's own.
_SILENT = frozenset(
    {
        "alembic_version",
        "alembic_version_auth",
        "workspaces",
        "webhook_events",
        "endpoint_bindings",
        "endpoint_model_mappings",
        "endpoint_tags",
        "guardrail_configs",
        "job_locks",
        "scheduler_leases",
        "roles",
        "role_permissions",
        "user_role_assignments",
        "sql_assessment_daily_rollups",
        "sql_span_cost_daily_rollups",
        "sql_trace_metric_daily_rollups",
        "sql_trace_rollup_rebuild_queue",
    }
)
#: Tables with the name of a registered model, and the column.
_MODEL_NAMES = (
    "registered_models",
    "registered_model_tags",
    "registered_model_aliases",
    "model_versions",
    "model_version_tags",
)
#: Differences that are told one by one.
_MOST = 5


@dataclass
class Loading:
    """Rows on their way from a staged source to the platform."""

    connection: psycopg.Connection[Any]
    source: sqlite3.Connection
    homes: Homes
    found: Moved
    tables: dict[str, Table]

    def load(self, say: Callable[[str], None]) -> None:
        """Everything into temporary tables `in_...`, as it is to be here."""
        there = staged.columns(self.source)
        for name, (what, why) in STAYING.items():
            count = self._count(name) if name in there else 0
            if count:
                self.found.leave(what, why, count=count)
        self.tables = {n: t for n, t in self.tables.items() if n in there and _moves(n)}
        for name, columns in there.items():
            if name not in self.tables and _moves(name) and not name.startswith("mlplatform_"):
                count = self._count(name)
                if columns and count:
                    self.found.leave(f"rows of {name}", "it is no table of MLflow's", count=count)
        for name, table in self.tables.items():
            say(f"loading {name}")
            missing = set(there[name]) - set(table.columns)
            if missing:
                raise BadInput(
                    f"{name} has columns that are not MLflow's: {', '.join(sorted(missing))}",
                    remedy="drop them in a copy of the source, and move that",
                )
            self.connection.execute(f"create temp table in_{name} (like public.{name})")
            listed = [c for c in there[name] if c in table.columns]
            with (
                self.connection.cursor() as cursor,
                cursor.copy(f"copy pg_temp.in_{name} ({catalog.names(listed)}) from stdin") as copied,
            ):
                for row in self._rows(table, listed):
                    copied.write_row(row)
            self.connection.execute(f"analyze pg_temp.in_{name}")
        for here in self.homes.taken:
            self.connection.execute("delete from pg_temp.in_experiments where experiment_id = %s", (here,))
        self._drop_parentless()

    def _count(self, name: str) -> int:
        where = " where deleted_timestamp is null" if name == "webhooks" else ""
        row = self.source.execute(f'select count(*) from "{name}"{where}').fetchone()
        return int(row[0])

    def _rows(self, table: Table, names: Sequence[str]) -> Iterator[Sequence[Any]]:
        change = _changes(table.name, names, self.homes, self.source)
        columns = [table.columns[name] for name in names]
        key = [number for number, name in enumerate(names) if name in table.key]
        experiment = names.index("experiment_id") if "experiment_id" in names else None
        for raw in staged.rows(self.source, table.name, names):
            if experiment is not None and raw[experiment] in self.homes.dropped:
                continue
            row = change(list(raw))
            fits = True
            for number, column in enumerate(columns):
                value = row[number]
                if isinstance(value, str) and ("\0" in value or 0 < column.limit < len(value)):
                    row[number], fits = self._cut(table, column, value, row, key)
                elif column.whole and isinstance(value, int) and value.bit_length() >= column.whole:
                    fits = False
                    self._leave_row(table, f"{column.name} is greater than Postgres takes", row, key)
                if not fits:
                    break
            if fits:
                yield row

    def _cut(
        self, table: Table, column: Column, value: str, row: Sequence[Any], key: Sequence[int]
    ) -> tuple[str, bool]:
        """Text as Postgres takes it, and whether the row can come: SQLite knows no limits, and takes NUL."""
        if "\0" in value:
            if column.name in table.key:
                self._leave_row(table, f"{column.name} holds a NUL character", row, key)
                return value, False
            self.found.leave(
                f"values of {table.name}.{column.name}",
                "Postgres takes no NUL characters: they came as U+FFFD",
                _told(row, key),
            )
            value = value.replace("\0", "\ufffd")
        if 0 < column.limit < len(value):
            if column.name in table.key or column.name in _ADDRESSES:
                self._leave_row(table, f"{column.name} has more than {column.limit} characters", row, key)
                return value, False
            self.found.leave(
                f"values of {table.name}.{column.name}",
                f"longer than {column.limit} characters: cut there",
                _told(row, key),
            )
            value = value[: column.limit]
        return value, True

    def _leave_row(self, table: Table, why: str, row: Sequence[Any], key: Sequence[int]) -> None:
        self.found.leave(f"rows of {table.name}", why, _told(row, key))

    def _drop_parentless(self) -> None:
        """Leave out what belongs to something that is not there: SQLite may have kept such rows."""
        for table in self.tables.values():
            for reference in table.references:
                parents = ["public.", *(["pg_temp.in_"] if reference.parent in self.tables else [])]
                pairs = list(zip(reference.columns, reference.keys, strict=True))
                absent = " and ".join(
                    f"not exists (select from {schema}{reference.parent} p where "
                    + " and ".join(f'p."{theirs}" = t."{mine}"' for mine, theirs in pairs)
                    + ")"
                    for schema in parents
                )
                filled = " and ".join(f't."{mine}" is not null' for mine in reference.columns)
                if reference.empties:
                    nothing = ", ".join(f'"{mine}" = null' for mine in reference.columns)
                    self.connection.execute(
                        f"update pg_temp.in_{table.name} t set {nothing} where {filled} and {absent}"
                    )
                    continue
                gone = self.connection.execute(
                    f"delete from pg_temp.in_{table.name} t where {filled} and {absent}"
                ).rowcount
                if gone:
                    self.found.leave(
                        f"rows of {table.name}",
                        f"what they belong to in {reference.parent} is not there",
                        count=gone,
                    )

    def compare(self) -> None:
        """Count what is here already. Raises `BadInput` where something is here and differs."""
        problems: list[str] = []
        self.found.there.clear()
        for table in self.tables.values():
            other = [c for c in table.columns if c not in table.key]
            same = table.same(table.key, "t", "p")
            pair = f"from pg_temp.in_{table.name} t join public.{table.name} p on {same}"
            rows = [f"row({', '.join(table.value(alias, c) for c in other)})" for alias in "tp"]
            differs = f"{rows[0]} is distinct from {rows[1]}" if other else "false"
            row = self.connection.execute(
                f"select count(*), count(*) filter (where {differs}) {pair}"
            ).fetchone()
            there, different = row or (0, 0)
            self.found.there[table.name] = there - different
            if different:
                names = self._names(table, f"{pair} where {differs}")
                problems.append(f"{different:,} rows of {table.name} are here with other values: {names}")
            for unique in table.uniques:
                problems += self._clashes(table, unique)
            for unique in (table.key, *table.uniques):
                problems += self._doubles(table, unique)
        if problems:
            raise BadInput(
                f"{'; '.join(problems[:_MOST])}"
                + (f"; and {len(problems) - _MOST} more tables" if len(problems) > _MOST else ""),
                remedy="nothing was written. Give what comes other names with --prefix, put it into "
                "a workspace of its own with --into-workspace, or rename or delete what is here",
            )

    def _clashes(self, table: Table, unique: Sequence[str]) -> list[str]:
        """Rows that are here under another key with what must be unique."""
        pair = (
            f"from pg_temp.in_{table.name} t join public.{table.name} p on {table.same(unique, 't', 'p')}"
            f" and not ({table.same(table.key, 't', 'p')})"
        )
        row = self.connection.execute(f"select count(*) {pair}").fetchone()
        if not row or not row[0]:
            return []
        return [f"{row[0]:,} of {table.name} are here already: {self._names(table, pair, unique)}"]

    def _doubles(self, table: Table, unique: Sequence[str]) -> list[str]:
        """Rows that become the same: two workspaces into one."""
        listed = ", ".join(table.value("t", c) for c in unique)
        every = " and ".join(f't."{c}" is not null' for c in unique)
        rows = self.connection.execute(
            f"select {listed} from pg_temp.in_{table.name} t where {every}"
            f" group by {listed} having count(*) > 1 limit {_MOST}"
        ).fetchall()
        if not rows:
            return []
        return [f"{table.name} would be there twice: {', '.join(_text(row) for row in rows)}"]

    def _names(self, table: Table, pair: str, columns: Sequence[str] = ()) -> str:
        listed = ", ".join(f't."{c}"' for c in columns or table.key)
        rows = self.connection.execute(f"select {listed} {pair} limit {_MOST}")
        return ", ".join(_text(row) for row in rows)

    def insert(self) -> None:
        """Insert what is not there, parents first."""
        for table in self.tables.values():
            listed, same = catalog.names(table.columns), table.same(table.key, "t", "p")
            self.found.rows[table.name] = self.connection.execute(
                f"insert into public.{table.name} ({listed}) select {listed} from pg_temp.in_{table.name} t"
                f" where not exists (select from public.{table.name} p where {same})"
            ).rowcount


#: A cut address would name nothing, or something else.
_ADDRESSES = frozenset({"artifact_uri", "artifact_location", "source", "storage_location"})


def _moves(name: str) -> bool:
    return name not in STAYING and name not in _SILENT


def _text(row: Sequence[Any]) -> str:
    return "/".join(str(value) for value in row)


def _told(row: Sequence[Any], key: Sequence[int]) -> str:
    """A row by its key, as short as a message takes it."""
    return _text([str(row[number]).replace("\0", "\\0")[:80] for number in key])


def _changes(
    name: str, columns: Sequence[str], homes: Homes, source: sqlite3.Connection
) -> Callable[[list[Any]], list[Any]]:
    """What becomes of one table's rows."""
    at = {column: number for number, column in enumerate(columns)}
    steps: list[Callable[[list[Any]], None]] = []

    def column(which: str, change: Callable[[Any], Any]) -> None:
        number = at[which]

        def step(row: list[Any]) -> None:
            row[number] = change(row[number])

        steps.append(step)

    # Addresses first: they are made from the source's ids.
    if name == "runs":
        steps.append(lambda row: _run(row, at, homes))
    elif name == "logged_models":
        steps.append(lambda row: _model(row, at, homes))
    elif name == "experiments":
        steps.append(lambda row: _experiment(row, at, homes))
    elif name == "trace_tags":
        steps.append(lambda row: _trace_tag(row, at, source))
    elif name == "model_versions":
        for address in ("source", "storage_location"):
            column(address, lambda uri: _version_source(uri, homes, source))
    elif name == "datasets":
        column("dataset_source", lambda text: within_json(source, text))
    elif name == "entity_associations":
        steps.append(lambda row: _association(row, at, homes))
    if name in ("registered_model_tags", "model_version_tags"):
        steps.append(lambda row: _tag(row, at, homes))
    if "experiment_id" in at:
        # Rows of an experiment that is gone keep an id that nothing here has, and are left out as parentless.
        column("experiment_id", lambda old: homes.ids.get(old, -1) if old is not None else None)
    if "workspace" in at and homes.wishes.workspace:
        column("workspace", homes.workspace)
    if name in (*_MODEL_NAMES, "experiments") and homes.wishes.prefix:
        column("name", lambda old: homes.wishes.prefix + old)

    def change(row: list[Any]) -> list[Any]:
        for step in steps:
            step(row)
        return row

    return change


def _run(row: list[Any], at: dict[str, int], homes: Homes) -> None:
    if row[at["artifact_uri"]] and row[at["experiment_id"]] in homes.ids:
        row[at["artifact_uri"]] = homes.run(row[at["experiment_id"]], row[at["run_uuid"]])


def _model(row: list[Any], at: dict[str, int], homes: Homes) -> None:
    if row[at["artifact_location"]] and row[at["experiment_id"]] in homes.ids:
        row[at["artifact_location"]] = homes.model(row[at["experiment_id"]], row[at["model_id"]])


def _experiment(row: list[Any], at: dict[str, int], homes: Homes) -> None:
    row[at["artifact_location"]] = homes.locations[homes.ids[row[at["experiment_id"]]]]


def _trace_tag(row: list[Any], at: dict[str, int], source: sqlite3.Connection) -> None:
    if row[at["key"]] in ("mlflow.artifactLocation", "mlflow.trace.archiveLocation") and row[at["value"]]:
        found = source.execute(
            "select new from mlplatform_things where kind = 'trace' and id = ? and old = ?",
            (row[at["request_id"]], row[at["value"]]),
        ).fetchone()
        if found is not None:
            row[at["value"]] = found[0]


def _version_source(uri: str | None, homes: Homes, source: sqlite3.Connection) -> str | None:
    """Logged models keep their ids, so `models:/m-...` stays; a version of a model here has its new name."""
    if uri and uri.startswith("models:/"):
        named = not uri.startswith("models:/m-")
        return f"models:/{homes.wishes.prefix}{uri.removeprefix('models:/')}" if named else uri
    return new_address(source, uri) or uri


def _association(row: list[Any], at: dict[str, int], homes: Homes) -> None:
    for end in ("source", "destination"):
        own = row[at[f"{end}_id"]]
        if row[at[f"{end}_type"]] == "experiment" and str(own).isdigit():
            row[at[f"{end}_id"]] = str(homes.ids.get(int(own), own))


def _tag(row: list[Any], at: dict[str, int], homes: Homes) -> None:
    row[at["value"]] = homes.prompt_tag(row[at["key"]], row[at["value"]])
