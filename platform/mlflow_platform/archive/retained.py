"""The archives that retention asks for: a batch is archived, verified and noted, and what changed since its
note is not purged but archived again.

A note is a row of `mlplatform.archived` in the tracking database: the archive that holds a thing, and the
fingerprints of its rows and of its objects' listing. It is no proof that the archive is still there; so
the manifest is asked for as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_platform.adapters.object_store import ObjectStore
from mlflow_platform.adapters.postgres import Database, translated
from mlflow_platform.archive import manifest, places, tables
from mlflow_platform.archive.create import Choice, create
from mlflow_platform.archive.places import Listings
from mlflow_platform.errors import BadInput, Fatal
from mlflow_platform.model.retention_policy import RetentionPolicy
from mlflow_platform.retention.roots import Roots

if TYPE_CHECKING:
    import psycopg

_NOTES = """
create table if not exists mlplatform.archived (
  kind text not null, id text not null, destination text not null, archive text not null,
  rows text not null, objects text not null, archived_at timestamptz not null default now(),
  primary key (kind, id, destination)
)
"""


@dataclass(frozen=True)
class Retained:
    """Implements `retention.archiving.Archiver`."""

    database: Database
    roots: Roots
    stores: Mapping[str, ObjectStore]
    """Destinations by the names of policies."""
    say: Callable[[str], None] = lambda _: None
    step: Callable[[str], None] = lambda _: None

    def ensure(self, policy: RetentionPolicy, kind: str, ids: Sequence[str]) -> str | None:
        store = self._store(policy)
        with self.database.connect(autocommit=True) as connection, translated():
            connection.execute(_NOTES)
            connection.execute(
                "delete from mlplatform.archived where archived_at < now() - interval '30 days'"
            )
            done = self._archived(connection, store, kind, ids)
            left = [i for i in ids if i not in done]
            lost = self._lost(connection, kind, left)
            name = tables.KINDS[kind]
            left = [i for i in left if (name, i) not in lost]
            if not left:
                return next(iter(lost.values()), None)
            made = create(
                self.database,
                self.roots,
                store,
                Choice.of_kind(kind, left),
                policy=policy.metadata.name,
                fingerprints=True,
                say=self.say,
                step=self.step,
            )
            noted = [
                (i, made.fingerprints[name, i], made.listings.of((name, i)))
                for i in left
                if (name, i) not in made.missing
            ]
            connection.execute(
                "insert into mlplatform.archived (kind, id, destination, archive, rows, objects)"
                " select %s, n.id, %s, %s, n.rows, n.objects"
                " from unnest(%s::text[], %s::text[], %s::text[]) as n(id, rows, objects)"
                " on conflict (kind, id, destination) do update set archive = excluded.archive,"
                " rows = excluded.rows, objects = excluded.objects, archived_at = now()",
                (
                    kind,
                    store.uri,
                    made.manifest.id,
                    [n[0] for n in noted],
                    [n[1] for n in noted],
                    [n[2] for n in noted],
                ),
            )
            self.step("archive noted")
        lost |= made.missing
        others = f"; {len(lost):,} not: {next(iter(lost.values()))}" if lost else ""
        return f"{len(noted):,} {kind}s archived as {made.manifest.id} in {store.uri}{others}"

    def unchanged(
        self, connection: psycopg.Connection[Any], policy: RetentionPolicy, kind: str, ids: Sequence[str]
    ) -> set[str]:
        now = self._fingerprints(connection, kind, ids, lock=True)
        notes = connection.execute(
            "select id, rows from mlplatform.archived where kind = %s and id = any(%s) and destination = %s",
            (kind, list(ids), self._store(policy).uri),
        )
        return {own for own, rows in notes if now.get(own) == rows}

    def _archived(
        self, connection: psycopg.Connection[Any], store: ObjectStore, kind: str, ids: Sequence[str]
    ) -> set[str]:
        """Those whose archive an earlier run has noted, and which are as they were then."""
        notes = connection.execute(
            "select id, archive, rows, objects from mlplatform.archived"
            " where kind = %s and id = any(%s) and destination = %s",
            (kind, list(ids), store.uri),
        ).fetchall()
        if not notes:
            return set()
        whole = {archive for archive in {note[1] for note in notes} if _whole(store, archive)}
        now = self._fingerprints(connection, kind, [note[0] for note in notes])
        places.note_places(connection, tables.PUBLIC)
        listings, lost = Listings(), dict[tuple[str, str], str]()
        for whose in places.noted(connection):
            listings.update(places.listed(self.roots, places.located(self.roots, whose, lost)))
        name = tables.KINDS[kind]
        return {
            own
            for own, archive, rows, objects in notes
            if archive in whole
            and now.get(own) == rows
            and listings.of((name, own)) == objects
            and (name, own) not in lost
        }

    def _lost(
        self, connection: psycopg.Connection[Any], kind: str, ids: Sequence[str]
    ) -> dict[tuple[str, str], str]:
        """Those whose artifacts nobody can find or read, by (kind, id), and why: they stay, too."""
        Choice.of_kind(kind, ids).note(connection, around=False)
        places.note_places(connection, tables.PUBLIC)
        lost: dict[tuple[str, str], str] = {}
        for whose in places.noted(connection):
            lost |= places.unreadable(self.roots, places.located(self.roots, whose, lost))
        return lost

    def _fingerprints(
        self, connection: psycopg.Connection[Any], kind: str, ids: Sequence[str], *, lock: bool = False
    ) -> dict[str, str]:
        Choice.of_kind(kind, ids).note(connection, around=False)
        found = tables.fingerprints(connection, tables.columns(connection), lock=lock)
        return {own: rows for (of, own), rows in found.items() if of == tables.KINDS[kind]}

    def _store(self, policy: RetentionPolicy) -> ObjectStore:
        store = self.stores.get(policy.metadata.name)
        if store is None:
            raise Fatal(
                f"the policy {policy.metadata.name} archives, and its destination is not open",
                remedy="please report this as a bug",
            )
        return store


def _whole(store: ObjectStore, archive: str) -> bool:
    try:
        manifest.read(store, archive)
    except BadInput:
        return False
    return True
