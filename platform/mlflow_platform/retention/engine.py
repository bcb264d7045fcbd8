"""A whole retention run: choose, brake, quarantine, purge rows, delete objects, look again, sweep.

Every step may be the last: what is chosen is chosen anew by the next run, and what was purged is in the
journal with the places of its objects.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_platform.adapters.postgres import Database, exclusive, lost, translated
from mlflow_platform.errors import BadInput, BrakeStopped, PlatformError
from mlflow_platform.model.retention_policy import RetentionPolicy, seconds
from mlflow_platform.retention import choose, journal
from mlflow_platform.retention.archiving import Archiver
from mlflow_platform.retention.drain import Drain
from mlflow_platform.retention.journal import Installation
from mlflow_platform.retention.objects import measure
from mlflow_platform.retention.pace import Closed, paced
from mlflow_platform.retention.purge import Purger
from mlflow_platform.retention.report import Report
from mlflow_platform.retention.roots import Place, Roots, claim
from mlflow_platform.retention.sweep import sweep
from mlflow_platform.retention.work import Work
from mlflow_platform.server.schemas import build_indexes

if TYPE_CHECKING:
    import psycopg

#: Times that a run begins again after a lost connection.
_ATTEMPTS = 6
#: Deleted share of a table, and rows, from which on it is vacuumed; autovacuum sees to the small ones.
_VACUUM_SHARE, _VACUUM_ROWS = 0.1, 10_000


@dataclass
class Engine:
    """Retention on one tracking database and its artifact roots.

    `ask` sends one light request to the server, for policies with `maxP99Factor`. `step` is called with the
    name of every step that changes something, before and after it.
    """

    database: Database
    roots: Roots
    ask: Callable[[], None] | None = None
    say: Callable[[str], None] = lambda _: None
    progress: Callable[[int, int], None] = lambda _done, _all: None
    step: Callable[[str], None] = lambda _: None
    patience: float = 30.0
    """How long to wait for a migration, a backup or another run that is at work, in seconds."""
    archiver: Archiver | None = None
    """Needed for policies with `archive`."""
    _seen: dict[str, choose.Seen] = field(default_factory=dict)
    _passed: bool = False
    """Whether the brake let the run at hand through, before its connection was lost."""

    def plan(self, policies: Sequence[RetentionPolicy], *, sizes: bool = True) -> Report:
        """What a run would do now. Everything is rolled back; `sizes`: also ask the stores for bytes."""
        report = Report(dry=True)
        with self.database.connect(autocommit=True) as connection, translated():
            journal.check_revision(connection)
            with connection.transaction(force_rollback=True):
                installation = journal.open_journal(connection)
                self._choose(connection, policies, report)
                counts = "select experiment_id, kind, action, count(*) from pg_temp.chosen group by 1, 2, 3"
                for experiment, kind, action, count in connection.execute(counts).fetchall():
                    share = report.share(experiment, self._names())
                    (share.quarantined if action == "quarantine" else share.purged)[kind] += count
                if sizes:
                    self._measure(connection, report)
                    for policy in policies:
                        sweep(connection, installation, self.roots, policy, report)
        return report

    def run(
        self, policies: Sequence[RetentionPolicy], *, allowed: str | None = None, claim_roots: bool = False
    ) -> Report:
        """Carry the policies out. `allowed`: the hash of a choice that may pass the brake.

        Raises `BrakeStopped`; `Blocked` while something else is at work; `BadInput` for an unknown schema and
        a root that is another installation's. A lost connection begins it again, some times.
        """
        for policy in policies:
            if policy.spec.dryRun:
                raise BadInput(
                    f"the policy {policy.metadata.name} says dryRun: true",
                    remedy="use `mlplatform retention plan`, or take that out",
                )
            if policy.spec.archive is not None and self.archiver is None:
                raise BadInput(
                    f"the policy {policy.metadata.name} archives, and no archive was opened",
                    remedy="run it by `mlplatform retention run`",
                )
        report = Report(dry=False)
        self._passed = False
        for attempt in range(_ATTEMPTS):
            try:
                self._run(policies, report, allowed, claim_roots=claim_roots)
                return report
            except PlatformError as error:
                if not lost(error) or attempt == _ATTEMPTS - 1:
                    raise
                self.say(f"{error.problem.what}; beginning again")
                time.sleep(2**attempt)
        return report

    def _run(
        self,
        policies: Sequence[RetentionPolicy],
        report: Report,
        allowed: str | None,
        *,
        claim_roots: bool,
    ) -> None:
        with ExitStack() as until:
            guard = until.enter_context(
                exclusive(
                    self.database, patience=self.patience, waiting=lambda: self.say("waiting for the lock")
                )
            )
            timeout = max((seconds(p.spec.statementTimeout) for p in policies), default=600)
            connection = self.database.connect(autocommit=True, statement_timeout=timeout)
            until.callback(connection.close)
            until.enter_context(translated())
            journal.check_revision(connection)
            installation = journal.open_journal(connection)
            self.step("journal opened")
            for store in self.roots.all.values():
                claim(store, installation, allowed=claim_roots)
            self.step("roots claimed")
            self._index(guard, report)
            journal.forget(connection)
            record = connection.execute(
                "insert into mlplatform.retention_run default values returning id"
            ).fetchone()
            with _timed(report, "choosing"):
                self._choose(connection, policies, report)
            if not self._passed:  # what is left of a choice that passed has another hash
                self._brake(connection, policies, report, allowed)
                self._passed = True
            drain = Drain(connection, guard, installation, self.roots, report, self.step, self._names())
            try:
                with paced(policies, self.ask) as wait:
                    with _timed(report, "rows"):
                        for policy in policies:
                            purger = Purger(
                                connection, installation, self.roots, policy, self.step, self.archiver
                            )
                            Work(purger, report, self._names(), wait, self.progress).carry_out()
                    self.say("deleting objects")
                    with _timed(report, "objects"):
                        drain.objects(wait)
                        drain.look_again()
                        self._sweep(connection, installation, policies, report)
                        drain.objects(wait)
            except Closed as closed:
                report.stopped = str(closed)
            report.waiting = drain.waiting()
            self._vacuum(guard, report)
            finish = (
                "update mlplatform.retention_run set finished_at = now(), outcome = %s, report = %s"
                " where id = %s"
            )
            outcome = "problems" if report.problems else report.stopped or "done"
            connection.execute(finish, (outcome, _json(report), record[0] if record else None))

    def _index(self, guard: psycopg.Connection[Any], report: Report) -> None:
        """The indexes that deleting needs. A build waits for every open transaction; one that took too long
        is repaired by the next run, and until then deleting is slow."""
        from psycopg import errors

        try:
            build_indexes(guard)
        except errors.LockNotAvailable:
            report.notes.append(
                "an index could not be built while long transactions are open; the next run will"
            )

    def _choose(
        self, connection: psycopg.Connection[Any], policies: Sequence[RetentionPolicy], report: Report
    ) -> None:
        choose.prepare(connection)
        report.kept.clear()
        for policy in policies:
            self.say(f"choosing for {policy.metadata.name}")
            self._seen[policy.metadata.name] = found = choose.choose(connection, policy)
            report.kept.update(found.kept)
        connection.execute("analyze pg_temp.chosen")
        digest = hashlib.sha256()
        with connection.transaction(), connection.cursor(name="digest") as cursor:
            cursor.itersize = 5000
            for row in cursor.execute(
                "select policy, kind, id, action from pg_temp.chosen order by kind, id"
            ):
                digest.update(repr(row).encode())
        report.hash = digest.hexdigest()[:12]

    def _brake(
        self,
        connection: psycopg.Connection[Any],
        policies: Sequence[RetentionPolicy],
        report: Report,
        allowed: str | None,
    ) -> None:
        """Stop before the first write where a policy chooses too large a share of what it sees."""
        new = (
            "select kind, count(*) from pg_temp.chosen where policy = %s and new group by kind order by kind"
        )
        for policy in policies:
            brake, seen = policy.spec.brake, self._seen[policy.metadata.name].seen
            for kind, count in connection.execute(new, (policy.metadata.name,)).fetchall():
                if (
                    count < brake.minimum
                    or count * 100 <= brake.maxPercent * seen[kind]
                    or allowed == report.hash
                ):
                    continue
                raise BrakeStopped(
                    f"the policy {policy.metadata.name} chooses {count:,} of {seen[kind]:,} {kind}s, "
                    f"more than {brake.maxPercent} %; nothing was touched",
                    plan_hash=report.hash,
                    remedy="look at `mlplatform retention plan`; if it is meant, pass "
                    f"--allow-destructive {report.hash}, or raise spec.brake.maxPercent",
                )

    def _sweep(
        self,
        connection: psycopg.Connection[Any],
        installation: Installation,
        policies: Sequence[RetentionPolicy],
        report: Report,
    ) -> None:
        for policy in policies:
            if policy.spec.rules.orphans is not None:
                self.say(f"looking for orphans for {policy.metadata.name}")
                sweep(connection, installation, self.roots, policy, report, self.step)

    def _measure(self, connection: psycopg.Connection[Any], report: Report) -> None:
        """Objects and bytes of what is chosen, by experiment."""
        query = (
            "select kind, id, uri, experiment_id from pg_temp.chosen where uri is not null"
            " union select 'logged model', m.model_id, m.artifact_location, m.experiment_id"
            " from public.logged_models m join pg_temp.chosen c on c.kind = 'run' and c.id = m.source_run_id"
            " union select 'trace', t.request_id, t.value, c.experiment_id from public.trace_tags t"
            " join pg_temp.chosen c on c.kind = 'trace' and c.id = t.request_id"
            " where t.key in ('mlflow.artifactLocation', 'mlflow.trace.archiveLocation') order by 3"
        )
        with connection.transaction(), connection.cursor(name="sizes") as cursor:
            cursor.execute(query)
            while rows := cursor.fetchmany(5000):
                places: dict[str, dict[str, int | None]] = {}
                for _, own, uri, experiment in rows:
                    place = self.roots.place(uri, own)
                    if isinstance(place, Place):
                        places.setdefault(place.root, {})[place.prefix] = experiment
                for root, prefixes in places.items():
                    for prefix, count, size in measure(self.roots.all[root], sorted(prefixes)):
                        share = report.share(prefixes[prefix], self._names())
                        share.objects += count
                        share.bytes += size

    def _vacuum(self, guard: psycopg.Connection[Any], report: Report) -> None:
        """Make the room of deleted rows reusable; without `truncate`, which would lock readers out."""
        sizes = "select reltuples from pg_class where oid = to_regclass(%s)"
        for table, deleted in report.rows.items():
            row = guard.execute(sizes, (f"public.{table}",)).fetchone()
            if deleted >= _VACUUM_ROWS and row and deleted > _VACUUM_SHARE * (max(0, row[0]) + deleted):
                guard.execute(f"vacuum (analyze, truncate false) public.{table}")
                report.notes.append(f"vacuumed {table}: the room of {deleted:,} rows is reusable, not freed")

    def _names(self) -> dict[int, str]:
        return {i: name for seen in self._seen.values() for i, name in seen.names.items()}


@contextmanager
def _timed(report: Report, phase: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        report.seconds[phase] = report.seconds.get(phase, 0.0) + time.monotonic() - began


def _json(report: Report) -> str:
    import json

    return json.dumps(report.as_json())
