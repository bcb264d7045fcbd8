"""Objects that no row and no journal entry names.

Only in roots that bear our marker, only keys of the shapes that MLflow makes below experiments of this
database, and only where every object of a thing is older than the grace: the store is listed first, and the
database asked afterwards, so that a run made in between is found.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_platform.adapters.object_store import ObjectStore
from mlflow_platform.model.retention_policy import RetentionPolicy, seconds
from mlflow_platform.retention import journal
from mlflow_platform.retention.journal import Entry, Installation
from mlflow_platform.retention.protections import named_by_versions
from mlflow_platform.retention.report import Report
from mlflow_platform.retention.roots import MARKER, Place, Roots

if TYPE_CHECKING:
    import psycopg

#: How long nothing is swept in a database that was found to be a copy: objects newer than the copy have no
#: rows in it.
REST_AFTER_COPY = datetime.timedelta(days=30)
#: mlflow/store/tracking/sqlalchemy_store.py: artifacts of runs (`create_run`), of logged models
#: (`create_logged_model`) and of traces (`_get_trace_artifact_location_tag`), below an experiment's location.
_SHAPE = re.compile(
    r"(?P<base>(?:.*/)?)"
    r"(?:(?P<run>[0-9a-f]{32})|models/(?P<model>m-[0-9a-f]{32})|traces/(?P<trace>tr-[0-9a-f]{32}))/artifacts/"
)
#: Locations that the server makes by itself (`_get_artifact_location`, and with workspaces on
#: mlflow/store/tracking/sqlalchemy_workspace_store.py, `_get_artifact_location`).
_OWN_BASE = re.compile(r"(?:workspaces/[^/]+/)?(?P<experiment>\d{1,18})/")
_ASKED_TOGETHER = 5000
#: Orphans of one sweep: what is kept in memory.
_MOST = 100_000


_LONG_AGO = datetime.datetime.min.replace(tzinfo=datetime.UTC)


@dataclass
class Thing:
    """Objects of one run, logged model or trace. `kind` is that of the table to ask."""

    kind: str
    id: str
    prefix: str
    objects: int = 0
    bytes: int = 0
    youngest: datetime.datetime = _LONG_AGO


def sweep(
    connection: psycopg.Connection[Any],
    installation: Installation,
    roots: Roots,
    policy: RetentionPolicy,
    report: Report,
    step: Callable[[str], None] = lambda _: None,
) -> None:
    """Put orphans into the journal, from which they are deleted as anything else. In a dry report, count."""
    orphans = policy.spec.rules.orphans
    if orphans is None:
        return
    if installation.copied_at is not None:
        rests = installation.copied_at + REST_AFTER_COPY
        if datetime.datetime.now(datetime.UTC) < rests:
            report.notes.append(f"orphans are left alone until {rests:%Y-%m-%d}: this database is a copy")
            return
    for store in roots.all.values():
        before = store.now() - datetime.timedelta(seconds=seconds(orphans.olderThan))
        whose = _Owners(connection, roots, store)
        total, found, size = 0, list[Thing](), 0
        for things in whose.things():
            total += sum(thing.objects for thing in things)
            found += whose.unknown([thing for thing in things if thing.youngest < before])
            if len(found) > _MOST:
                report.notes.append(f"{store.uri}: more than {_MOST:,} orphans; the next run goes on")
                break
        count = sum(thing.objects for thing in found)
        size = sum(thing.bytes for thing in found)
        brake = policy.spec.brake
        if not report.dry and count >= brake.minimum and count * 100 > brake.maxPercent * total:
            report.problems.append(
                f"{store.uri}: {count:,} of {total:,} objects belong to nothing, more than "
                f"{brake.maxPercent} %: none was swept; look at them, and raise spec.brake.maxPercent"
            )
            continue
        if found:
            share = report.share(None)
            share.purged["orphan"] += len(found)
            if report.dry:
                share.objects += count
                share.bytes += size
        if report.dry:
            continue
        step("orphans: begin")
        with connection.transaction():
            journal.check_unchanged(connection, installation)
            entries = [
                Entry(f"orphan {t.kind}", t.id, f"{store.uri}/{t.prefix}", None, store.uri, t.prefix)
                for t in found
            ]
            journal.write(connection, policy.metadata.name, entries)
        step("orphans: committed")
        aborted = store.abort_uploads(before)
        if aborted:
            report.notes.append(f"{store.uri}: aborted {aborted} unfinished uploads")


@dataclass
class _Owners:
    """What is in a root, and whose it is."""

    connection: psycopg.Connection[Any]
    roots: Roots
    store: ObjectStore

    def __post_init__(self) -> None:
        self._bases: set[str] = set()
        for location, own in self.connection.execute(
            "select artifact_location, experiment_id::text from public.experiments"
        ).fetchall():
            # The id stands in for a thing's, as a location itself need not hold one.
            place = self.roots.place(f"{location}/{own}", own)
            if isinstance(place, Place) and place.root == self.store.uri:
                self._bases.add(place.prefix[: -len(own) - 1])
        row = self.connection.execute(
            "select last_value from public.experiments_experiment_id_seq"
        ).fetchone()
        self._highest = int(row[0]) if row else 0

    def things(self) -> Iterator[Sequence[Thing]]:
        """Everything in the root that has a shape of MLflow's, some thousand at a time."""
        together: dict[str, Thing] = {}
        after: tuple[str, str] | None = None
        while True:
            page = self.store.page("", after)
            for one in page.found:
                thing = None if one.key == MARKER else self._thing(one.key)
                if thing is None:
                    continue
                thing = together.setdefault(thing.prefix, thing)
                thing.objects += 1
                thing.bytes += one.size
                thing.youngest = max(thing.youngest, one.modified)
            after = page.after
            # The last one may go on in the next page.
            if after is None or len(together) > _ASKED_TOGETHER:
                last = together.popitem()[1] if after is not None else None
                yield list(together.values())
                together = {last.prefix: last} if last else {}
            if after is None:
                return

    def _thing(self, key: str) -> Thing | None:
        found = _SHAPE.match(key)
        if found is None:
            return None
        base = found["base"]
        own = _OWN_BASE.fullmatch(base)
        made_here = own is not None and int(own["experiment"]) <= self._highest
        if base not in self._bases and not made_here:
            return None
        kind = "run" if found["run"] else "logged model" if found["model"] else "trace"
        return Thing(kind, found["run"] or found["model"] or found["trace"], found[0])

    def unknown(self, things: Sequence[Thing]) -> list[Thing]:
        """Those that no row, no model version and no open journal entry names."""
        ids = [thing.id for thing in things]
        known = {row[0] for row in self.connection.execute(_KNOWN, {"ids": ids})}
        known |= named_by_versions(self.connection, ids)
        return [thing for thing in things if thing.id not in known]


_KNOWN = """
select run_uuid from public.runs where run_uuid = any(%(ids)s)
union select model_id from public.logged_models where model_id = any(%(ids)s)
union select request_id from public.trace_info where request_id = any(%(ids)s)
union select id from mlplatform.purged where id = any(%(ids)s) and state <> 'done'
"""
