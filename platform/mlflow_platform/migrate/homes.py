"""Where things go: ids and names of experiments, workspaces, and the addresses that follow from them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import BadInput
from mlflow_platform.migrate.places import normal

if TYPE_CHECKING:
    import psycopg

#: The largest id that is kept: experiments.experiment_id is an integer of Postgres', and new ones come after.
_LARGEST_KEPT = 1_000_000_000
#: mlflow/prompt/constants.py: PROMPT_EXPERIMENT_IDS_TAG_KEY, a list of ids between commas.
_PROMPT_TAG = "_mlflow_experiment_ids"
#: mlflow/utils/workspace_utils.py: DEFAULT_WORKSPACE_NAME.
DEFAULT_WORKSPACE = "default"
#: Tags of a trace that hold an address (mlflow/tracing/constant.py) -> the last part of where it is.
_TRACE_TAGS = {"mlflow.artifactLocation": "artifacts", "mlflow.trace.archiveLocation": "archive"}

_LEDGER = """
create schema if not exists mlplatform;
create table if not exists mlplatform.migrated (
  source text not null, experiment text not null, here integer not null, primary key (source, experiment)
);
"""


@dataclass(frozen=True)
class Wishes:
    """What the user wants otherwise. `prefix` of names of experiments and registered models."""

    prefix: str = ""
    workspace: str | None = None

    def __post_init__(self) -> None:
        """Raises `BadInput` for a prefix that MLflow takes for no model (mlflow/utils/validation.py)."""
        if set(self.prefix) & set("/:"):
            raise BadInput(
                f"--prefix {self.prefix}: names of registered models take no / and no :",
                remedy="give another one, such as team-",
            )


@dataclass
class Homes:
    """Everything that changes on the way."""

    ids: dict[int, int]
    """Experiments at the source -> here."""
    locations: dict[int, str]
    """Experiments here -> their artifact location."""
    wishes: Wishes = field(default_factory=Wishes)
    taken: set[int] = field(default_factory=set)
    """Experiments here that were here before, empty, whose own row stays."""
    dropped: set[int] = field(default_factory=set)
    """Experiments at the source that do not come: an empty Default."""

    def workspace(self, name: str) -> str:
        return self.wishes.workspace or name

    def run(self, experiment: int, run: str) -> str:
        """As mlflow/store/tracking/sqlalchemy_store.py makes addresses; so for those that follow."""
        return f"{self.locations[self.ids[experiment]]}/{run}/artifacts"

    def model(self, experiment: int, model: str) -> str:
        return f"{self.locations[self.ids[experiment]]}/models/{model}/artifacts"

    def trace(self, experiment: int, trace: str, tag: str) -> str:
        return f"{self.locations[self.ids[experiment]]}/traces/{trace}/{_TRACE_TAGS[tag]}"

    def prompt_tag(self, key: str, value: str | None) -> str | None:
        """The tag by which a prompt belongs to experiments, with their ids here."""
        if key != _PROMPT_TAG or not value:
            return value
        ids = [part for part in value.split(",") if part]
        return f",{','.join(str(self.ids.get(int(i), i)) if i.isdigit() else i for i in ids)},"


def ledger(connection: psycopg.Connection[Any], source: str, wishes: Wishes) -> dict[int, int]:
    """Experiments of this source that have a home from an earlier time, by the same wishes."""
    connection.execute(_LEDGER)
    query = "select experiment, here from mlplatform.migrated where source = %s"
    return {int(old): here for old, here in connection.execute(query, (_known_as(source, wishes),))}


def _known_as(source: str, wishes: Wishes) -> str:
    """Machines have databases of the same name: who gives the second one a prefix means other experiments."""
    prefix = f" --prefix {wishes.prefix}" if wishes.prefix else ""
    return f"{source}{prefix}" + (f" --into-workspace {wishes.workspace}" if wishes.workspace else "")


def decide(
    connection: psycopg.Connection[Any],
    staged: sqlite3.Connection,
    source: str,
    wishes: Wishes,
    *,
    granted: int,
    workspaces: set[str],
) -> Homes:
    """Where every experiment goes. `granted`: the highest id that a grant names; `workspaces`: all that
    the source has something in.

    Within a transaction. An id is kept that is above all that were ever given out here, since grants may
    name those; others get new ones. `BadInput` for workspaces that are not here.
    """
    known = ledger(connection, source, wishes)
    found = staged.execute(
        "select experiment_id, name, workspace from experiments order by experiment_id"
    ).fetchall()
    homes = Homes({}, {}, wishes)
    floor = max(_highest(connection), granted)
    later: list[int] = []
    for old, name, _ in found:
        if old in known:
            homes.ids[old] = known[old]
            if known[old] == 0:
                homes.taken.add(0)
        elif old == 0 and _empty(staged, "select experiment_id from experiments where experiment_id = 0"):
            homes.dropped.add(old)
        elif old == 0 and not wishes.prefix and not wishes.workspace and _default_is_free(connection, name):
            homes.ids[old] = 0
            homes.taken.add(0)
        elif floor < old <= _LARGEST_KEPT:
            homes.ids[old] = old
        else:
            later.append(old)
    following = max([floor, *homes.ids.values()])
    for old in later:
        following += 1
        homes.ids[old] = following
    _refuse_workspaces(connection, {homes.workspace(w) for w in workspaces})
    root = _default_root(connection)
    own = dict(
        connection.execute(
            "select name, default_artifact_root from public.workspaces where default_artifact_root <> ''"
        ).fetchall()
    )
    for old, _, workspace in found:
        if old in homes.ids:
            here = homes.ids[old]
            homes.locations[here] = _location(root, own, homes.workspace(workspace), here)
    if 0 in homes.taken:
        row = connection.execute(
            "select artifact_location from public.experiments where experiment_id = 0"
        ).fetchone()
        if row and row[0]:
            homes.locations[0] = row[0]
    return homes


def keep(connection: psycopg.Connection[Any], source: str, homes: Homes) -> None:
    """Remember the decision, and let no experiment that is made meanwhile get one of these ids."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into mlplatform.migrated (source, experiment, here) values (%s, %s, %s)"
            " on conflict do nothing",
            [(_known_as(source, homes.wishes), str(old), here) for old, here in homes.ids.items()],
        )
    if homes.ids:
        connection.execute(
            "select setval(pg_get_serial_sequence('public.experiments', 'experiment_id'),"
            " greatest(%s, %s, 1))",
            (max(homes.ids.values()), _highest(connection)),
        )


def _highest(connection: psycopg.Connection[Any]) -> int:
    """The highest id of an experiment that was ever given out here."""
    row = connection.execute(
        "select greatest((select coalesce(max(experiment_id), 0) from public.experiments),"
        " (select coalesce(max(last_value), 0) from pg_sequences"
        "  where format('%%I.%%I', schemaname, sequencename)"
        "  = pg_get_serial_sequence('public.experiments', 'experiment_id')),"
        " (select coalesce(max(here), 0) from mlplatform.migrated))",
        (),
    ).fetchone()
    return int(row[0]) if row else 0


#: What makes an experiment not empty, in both databases.
_CONTENT = (
    "runs",
    "logged_models",
    "trace_info",
    "datasets",
    "scorers",
    "label_schemas",
    "review_queues",
    "issues",
)


def _empty(database: Any, which: str) -> bool:
    content = " union all ".join(
        f"select 1 from {table} where experiment_id = ({which})" for table in (*_CONTENT, "experiment_tags")
    )
    return database.execute(f"{content} limit 1").fetchone() is None


def _default_is_free(connection: psycopg.Connection[Any], name: str) -> bool:
    """Whether the platform's experiment 0 has this name and nothing in it: it is there from the beginning."""
    row = connection.execute(
        "select true from public.experiments where experiment_id = 0 and name = %s and workspace = %s"
        " and lifecycle_stage = 'active'",
        (name, DEFAULT_WORKSPACE),
    ).fetchone()
    return row is not None and _empty(connection, "select 0")


def _refuse_workspaces(connection: psycopg.Connection[Any], wanted: set[str]) -> None:
    there = {row[0] for row in connection.execute("select name from public.workspaces")} | {DEFAULT_WORKSPACE}
    missing = sorted(wanted - there)
    if missing:
        raise BadInput(
            f"there is no workspace {missing[0]} here"
            + (f", nor {len(missing) - 1} more" * (len(missing) > 1)),
            remedy="declare it first (kind Workspace), or give --into-workspace",
        )


def _default_root(connection: psycopg.Connection[Any]) -> str:
    """The servers' default artifact root: MLflow's first start has written it into experiment 0."""
    row = connection.execute(
        "select artifact_location from public.experiments where experiment_id = 0"
    ).fetchone()
    location = str(row[0] or "") if row else ""
    return location.removesuffix("/0") if location.endswith("/0") else "mlflow-artifacts:"


def _location(root: str, own: Mapping[str, str], workspace: str, experiment: int) -> str:
    """mlflow/store/tracking/sqlalchemy_workspace_store.py, `_get_artifact_location`."""
    if workspace in own:
        return f"{own[workspace].rstrip('/')}/{experiment}"
    if workspace == DEFAULT_WORKSPACE:
        return f"{root}/{experiment}"
    return f"{root.removesuffix('/workspaces/default')}/workspaces/{workspace}/{experiment}"


def index_addresses(staged: sqlite3.Connection, homes: Homes) -> None:
    """Note in the staged database every address that a thing has of its own, and the one it gets."""
    staged.execute("drop table if exists mlplatform_moves")
    staged.execute("drop table if exists mlplatform_things")
    staged.execute("create table mlplatform_moves (old text primary key, new text)")
    staged.execute(
        "create table mlplatform_things (kind text, id text, experiment integer, old text, new text)"
    )
    for query, kind, address in _things(homes):
        for own, experiment, old, *more in staged.execute(query):
            if experiment in homes.ids and old:
                new = address(experiment, own, *more)
                staged.execute(
                    "insert into mlplatform_things values (?, ?, ?, ?, ?)",
                    (kind, own, homes.ids[experiment], old, new),
                )
                staged.execute("insert or ignore into mlplatform_moves values (?, ?)", (normal(old), new))
    for old, here in homes.ids.items():
        row = staged.execute(
            "select artifact_location from experiments where experiment_id = ?", (old,)
        ).fetchone()
        if row and row[0]:
            staged.execute(
                "insert or ignore into mlplatform_moves values (?, ?)",
                (normal(row[0]), homes.locations[here]),
            )
    staged.execute("create index mlplatform_things_id on mlplatform_things (kind, id)")
    staged.commit()


def _things(homes: Homes) -> Sequence[tuple[str, str, Callable[..., str]]]:
    """Queries for (id, experiment, address, ...) of all that has artifacts, and what the address becomes."""
    tags = ", ".join(f"'{tag}'" for tag in _TRACE_TAGS)
    return (
        ("select run_uuid, experiment_id, artifact_uri from runs", "run", homes.run),
        ("select model_id, experiment_id, artifact_location from logged_models", "model", homes.model),
        (
            (
                "select t.request_id, i.experiment_id, t.value, t.key from trace_tags t"
                f" join trace_info i on i.request_id = t.request_id where t.key in ({tags})"
            ),
            "trace",
            homes.trace,
        ),
    )


def new_address(staged: sqlite3.Connection, uri: str | None) -> str | None:
    """An address at or below one that moves, as it is here; None where it does not move."""
    if not uri:
        return None
    address = normal(uri)
    below = ""
    while address and address not in (".", "/"):
        row = staged.execute("select new from mlplatform_moves where old = ?", (address,)).fetchone()
        if row is not None:
            return str(row[0]) + below
        address, slash, last = address.rpartition("/")
        if not slash:
            return None
        below = f"/{last}{below}"
    return None


def within_json(staged: sqlite3.Connection, text: str | None) -> str | None:
    """JSON's text with the addresses in it that move; text that is none stays as it is."""
    if not text or "/" not in text:
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    changed = False

    def walk(one: Any) -> Any:
        nonlocal changed
        if isinstance(one, dict):
            return {key: walk(inner) for key, inner in one.items()}
        if isinstance(one, list):
            return [walk(inner) for inner in one]
        if isinstance(one, str) and "/" in one and (new := new_address(staged, one)) is not None:
            changed = True
            return new
        return one

    walked = walk(value)
    return json.dumps(walked) if changed else text
