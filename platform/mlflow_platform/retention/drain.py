"""From the journal to the stores: objects go, each answer is written down, and all is looked at again."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import Transient
from mlflow_platform.retention import journal
from mlflow_platform.retention import rows as tables
from mlflow_platform.retention.journal import Installation
from mlflow_platform.retention.objects import Emptied, empty
from mlflow_platform.retention.protections import named_by_versions
from mlflow_platform.retention.report import Report
from mlflow_platform.retention.roots import Roots, claim

if TYPE_CHECKING:
    import psycopg

#: Journal entries in memory at once, and written back together.
_ENTRIES, _WRITTEN = 20_000, 1000
#: Problems that are told one by one.
_MOST_PROBLEMS = 20


@dataclass
class Drain:
    """The journal's entries of one database, and the stores that are at hand."""

    connection: psycopg.Connection[Any]
    guard: psycopg.Connection[Any]
    """Holds the lock against backups; asked now and then, since it is lost with its connection."""
    installation: Installation
    roots: Roots
    report: Report
    step: Callable[[str], None]
    names: dict[int, str]

    def objects(self, pause: Callable[[], bool] = lambda: False) -> None:
        """Delete the objects of every pending entry, root by root. Entries with problems stay pending."""
        self.connection.execute(
            f"update mlplatform.purged set {_EMPTY} where state = 'pending' and root is null",
            _checks(),
        )
        for root, store in self.roots.all.items():
            last = ""
            while rows := self.connection.execute(
                "select prefix, kind, id, uri, experiment_id from mlplatform.purged where state = 'pending'"
                ' and root = %s and prefix collate "C" > %s and coalesce(wait_until <= now(), true)'
                ' order by prefix collate "C" limit %s',
                (root, last, _ENTRIES),
            ).fetchall():
                last = rows[-1][0]
                rows = self._unclaimed(rows)
                # The marker again: somebody may have given the root to another installation meanwhile.
                claim(store, self.installation, allowed=False)
                self.guard.execute("select true")
                of: dict[str, list[tuple[str, str, str, int | None]]] = {}
                for row in rows:
                    of.setdefault(row[0], []).append(row[1:])
                results: list[tuple[tuple[str, str, str, int | None], Emptied]] = []
                try:
                    for one in empty(store, list(of), pause=pause):
                        first, *others = of[one.prefix]
                        results.append((first, one))
                        same = Emptied(one.prefix, problem=one.problem, until=one.until, listed=True)
                        results += [(other, same) for other in others]
                        if len(results) >= _WRITTEN:
                            self._write(results)
                            results = []
                except Transient as error:
                    self.report.problems.append(str(error.problem.what))
                    break
                finally:
                    if results:
                        self._write(results)

    def _unclaimed(self, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Leave out, and mark, what a model version has come to name since its rows were deleted."""
        named = named_by_versions(self.connection, [row[2] for row in rows])
        for row in rows:
            if row[2] in named:
                text = "a model version names it since it was purged: its objects stay"
                self.connection.execute(
                    "update mlplatform.purged set state = 'claimed', problem = %s"
                    " where kind = %s and id = %s",
                    (text, row[1], row[2]),
                )
                self.report.notes.append(f"{row[1]} {row[2]}: {text}")
        return [row for row in rows if row[2] not in named]

    def _write(self, results: Sequence[tuple[tuple[str, str, str, int | None], Emptied]]) -> None:
        self.step("objects deleted")
        for (_, _, _, experiment), one in results:
            if one.objects:
                share = self.report.share(experiment, self.names)
                share.objects += one.objects
                share.bytes += one.bytes
            if not one.whole:
                self._problem(f"{one.prefix}: {one.problem}")
        with self.connection.transaction():
            journal.check_unchanged(self.connection, self.installation)
            self.connection.execute(
                "update mlplatform.purged p set objects = p.objects + r.objects, bytes = p.bytes + r.bytes,"
                f" problem = r.problem, wait_until = r.until, {_ANSWERED}"
                " from unnest(%(kinds)s::text[], %(ids)s::text[], %(uris)s::text[], %(objects)s::bigint[],"
                " %(bytes)s::bigint[], %(problems)s::text[], %(until)s::timestamptz[])"
                " as r(kind, id, uri, objects, bytes, problem, until)"
                " where p.kind = r.kind and p.id = r.id and p.uri = r.uri",
                {
                    **_checks(),
                    "kinds": [key[0] for key, _ in results],
                    "ids": [key[1] for key, _ in results],
                    "uris": [key[2] for key, _ in results],
                    "objects": [one.objects for _, one in results],
                    "bytes": [one.bytes for _, one in results],
                    "problems": [one.problem for _, one in results],
                    "until": [one.until for _, one in results],
                },
            )
        self.step("objects noted")
        self.guard.execute("select true")

    def look_again(self) -> None:
        """What came to purged things after their rows had gone: inputs, spans, and objects.

        MLflow checks no foreign key for inputs, and late spans make their trace anew.
        """
        due = (
            "select kind, id from mlplatform.purged where state = 'watched' and next_at <= now()"
            " and (root is null or root = any(%s)) group by kind, id order by kind, id limit 1000"
        )
        while rows := self.connection.execute(due, (list(self.roots.all),)).fetchall():
            self.step("looking again: begin")
            with self.connection.transaction():
                journal.check_unchanged(self.connection, self.installation)
                by_kind: dict[str, list[str]] = {}
                for kind, own in rows:
                    by_kind.setdefault(kind, []).append(own)
                for kind, ids in by_kind.items():
                    self._look_again(kind, ids)
            self.step("looking again: committed")

    def _look_again(self, kind: str, ids: list[str]) -> None:
        back: set[str] = set()
        if kind in _BACK:
            back = {row[0] for row in self.connection.execute(_BACK[kind], (ids,))}
        gone = [i for i in ids if i not in back]
        if kind == "run":
            tables.delete(self.connection, tables.RUN_LINKS, gone, self.report.rows)
        elif kind == "logged model":
            tables.delete(self.connection, tables.MODEL_LINKS, gone, self.report.rows)
        elif kind == "trace":
            late = "select request_id from public.trace_info where request_id = any(%s) order by 1 for update"
            found = [row[0] for row in self.connection.execute(late, (ids,))]
            tables.delete(self.connection, tables.TRACE_ROWS, found, self.report.rows)
            tables.delete(
                self.connection, {"review_queue_items": "item_id = any(%s)"}, gone, self.report.rows
            )
        self.connection.execute(
            "update mlplatform.purged set state = 'done', problem = 'its row is back: left alone'"
            " where kind = %s and id = any(%s)",
            (kind, sorted(back)),
        )
        self.connection.execute(
            "update mlplatform.purged set state = 'pending', checks = checks + 1"
            " where kind = %s and id = any(%s) and state = 'watched' and (root is null or root = any(%s))",
            (kind, gone, list(self.roots.all)),
        )
        self.connection.execute(
            f"update mlplatform.purged set {_EMPTY} where state = 'pending' and root is null"
            " and kind = %(kind)s and id = any(%(ids)s)",
            {**_checks(), "kind": kind, "ids": gone},
        )

    def waiting(self) -> int:
        """How many places still hold objects that should be gone; tells of those in stores not at hand."""
        elsewhere = self.connection.execute(
            "select root, count(*) from mlplatform.purged where state = 'pending' and root <> all(%s)"
            " group by 1",
            (list(self.roots.all),),
        ).fetchall()
        for root, count in elsewhere:
            self.report.problems.append(f"{count:,} places in {root} wait: that store was not given")
        row = self.connection.execute(
            "select count(*) from mlplatform.purged where state = 'pending'"
        ).fetchone()
        return int(row[0]) if row else 0

    def _problem(self, text: str) -> None:
        if text in self.report.problems:  # what is pending is tried twice in a run
            return
        if len(self.report.problems) < _MOST_PROBLEMS:
            self.report.problems.append(text)
        elif len(self.report.problems) == _MOST_PROBLEMS:
            self.report.problems.append("and more; `mlplatform retention status` lists them")


_BACK = {
    "run": "select run_uuid from public.runs where run_uuid = any(%s)",
    "logged model": "select model_id from public.logged_models where model_id = any(%s)",
}
#: What an entry becomes when nothing is left of it; and the same with the answers of a store.
_EMPTY = (
    "state = case when checks < %(checks)s then 'watched' else 'done' end,"
    " next_at = purged_at + (%(waits)s::interval[])[checks + 1]"
)
_ANSWERED = (
    "state = case when r.problem is not null then p.state when p.checks < %(checks)s then 'watched'"
    " else 'done' end, next_at = p.purged_at + (%(waits)s::interval[])[p.checks + 1]"
)


def _checks() -> dict[str, list[datetime.timedelta] | int]:
    return {"checks": len(journal.CHECKS), "waits": list(journal.CHECKS)}
