"""Where the artifacts of chosen things are, and what is there."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_platform.adapters.object_store import Found, ObjectStore
from mlflow_platform.retention.objects import walk
from mlflow_platform.retention.roots import Place, Roots

if TYPE_CHECKING:
    import psycopg

#: Things whose artifacts are listed together.
_TOGETHER = 1000

#: Kind of folder -> what it holds. `trace-archive`: spans that MLflow has moved out of the database
#: (mlflow/tracing/constant.py: TraceTagKey.ARCHIVE_LOCATION).
_URIS = """
select 'run', t.run_uuid, t.artifact_uri, 'run', t.run_uuid
from {s}runs t join pg_temp.archive_run a on a.id = t.run_uuid
union all select 'model', t.model_id, t.artifact_location,
  case when r.id is null then 'model' else 'run' end, coalesce(r.id, t.model_id)
from {s}logged_models t join pg_temp.archive_model a on a.id = t.model_id
left join pg_temp.archive_run r on r.id = t.source_run_id
union all select case t.key when 'mlflow.artifactLocation' then 'trace' else 'trace-archive' end,
  t.request_id, t.value, 'trace', t.request_id
from {s}trace_tags t join pg_temp.archive_trace a on a.id = t.request_id
where t.key in ('mlflow.artifactLocation', 'mlflow.trace.archiveLocation')
"""


@dataclass(frozen=True, slots=True)
class Whose:
    """Artifacts of one thing. `kind` is that of the folder in an archive; `thing` is what they go with, by
    kind and id: a logged model's go with its run where that is chosen, too."""

    kind: str
    id: str
    uri: str
    thing: tuple[str, str]


def note_places(connection: psycopg.Connection[Any], schema: str) -> None:
    """Note the artifact URIs of all that is chosen, in the temporary table `archive_place`."""
    connection.execute(
        "create temp table if not exists archive_place (kind text, id text, uri text,"
        " thing_kind text, thing_id text)"
    )
    connection.execute("truncate pg_temp.archive_place")
    connection.execute(
        "insert into pg_temp.archive_place select * from"
        f" ({_URIS.format(s=schema)}) as u(kind, id, uri, thing_kind, thing_id) where uri <> ''"
    )


def noted(connection: psycopg.Connection[Any]) -> Iterator[list[Whose]]:
    """What `note_places` noted, neighbours in the store together, in lists."""
    with connection.transaction(), connection.cursor(name="places") as cursor:
        cursor.execute('select * from pg_temp.archive_place order by uri collate "C"')
        while rows := cursor.fetchmany(_TOGETHER):
            yield [Whose(kind, own, uri, (of, thing)) for kind, own, uri, of, thing in rows]


def located(roots: Roots, whose: Sequence[Whose], lost: dict[tuple[str, str], str]) -> dict[Place, Whose]:
    """Where these are; in `lost`, by (kind, id), why nobody can say."""
    found: dict[Place, Whose] = {}
    for one in whose:
        place = roots.place(one.uri, one.id)
        if isinstance(place, Place):
            found[place] = one
        else:
            lost[one.thing] = place
    return found


def objects(roots: Roots, places: dict[Place, Whose]) -> Iterator[tuple[ObjectStore, Whose, str, Found]]:
    """All objects there: the store, whose, the path below its URI, the object."""
    for root, store in roots.all.items():
        prefixes = {place.prefix: whose for place, whose in places.items() if place.root == root}
        for prefix, found, _ in walk(store, sorted(prefixes)):
            for one in found:
                yield store, prefixes[prefix], one.key.removeprefix(prefix), one


def unreadable(roots: Roots, places: dict[Place, Whose]) -> dict[tuple[str, str], str]:
    """Things with artifacts that a folder says nobody can read, such as links, by (kind, id), and why."""
    near = {place: whose for place, whose in places.items() if roots.all[place.root].near}
    return {
        whose.thing: f"{store.uri}/{one.shown}: {one.unreadable}"
        for store, whose, _, one in objects(roots, near)
        if one.unreadable
    }


class Listings:
    """What is in the store for each thing, in a few bytes each: names, sizes and times of its objects."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], int] = {}

    def add(self, thing: tuple[str, str], one: Found) -> None:
        text = f"{one.key}\0{one.size}\0{one.modified.isoformat()}"
        number = int.from_bytes(
            hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=12).digest()
        )
        self._sums[thing] = (self._sums.get(thing, 0) + number) % (1 << 96)

    def update(self, others: Listings) -> None:
        self._sums.update(others._sums)

    def of(self, thing: tuple[str, str]) -> str:
        return f"{self._sums.get(thing, 0):024x}"


def listed(roots: Roots, places: dict[Place, Whose]) -> Listings:
    """What is there now."""
    found = Listings()
    for _, whose, _, one in objects(roots, places):
        found.add(whose.thing, one)
    return found


def file_of(whose: Whose, path: str) -> str:
    """Where an object goes in an archive. A key in S3 may be what no file can be called."""
    parts = path.split("/")
    if (
        "" in parts
        or "." in parts
        or ".." in parts
        or "\\" in path
        or any(len(p.encode()) > 255 for p in parts)
    ):
        path = f".odd/{hashlib.sha256(path.encode()).hexdigest()}"
    return posixpath.join("artifacts", whose.kind, whose.id, path)
