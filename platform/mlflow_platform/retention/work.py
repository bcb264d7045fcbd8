"""What a policy has chosen is carried out: in batches of about a second; a deleted experiment whole."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mlflow_platform.retention.archiving import ARCHIVED
from mlflow_platform.retention.purge import Purger
from mlflow_platform.retention.report import Report
from mlflow_platform.retention.transaction import Batch, Item

#: Seconds that one transaction should take: registering a model version waits for it.
_TARGET = 1.0
_FIRST_BATCH, _LARGEST_BATCH = 200, 2000
#: What is done in this order; experiments last, when nothing is in them any more.
_WORK = (
    ("run", "quarantine"),
    ("logged model", "quarantine"),
    ("version", "quarantine"),
    ("trace", "purge"),
    ("run", "purge"),
    ("logged model", "purge"),
    ("version", "purge"),
    ("experiment", "purge"),
)
#: Times that a transaction is tried when others' locks are in its way.
_ATTEMPTS = 6
#: Most things of a deleted experiment that goes in one transaction.
_WHOLE = 10_000
#: What goes with a deleted experiment, in this order.
_WITHIN = ("trace", "run", "logged model", "experiment")


@dataclass(frozen=True)
class Work:
    """What `pg_temp.chosen` holds for the purger's policy. `names`: of experiments, by id. `wait` is called
    before each batch, and `progress` after it with how many are done, of how many."""

    purger: Purger
    report: Report
    names: dict[int, str]
    wait: Callable[[], bool]
    progress: Callable[[int, int], None] = lambda _done, _all: None

    @property
    def _policy(self) -> str:
        return self.purger.policy.metadata.name

    def carry_out(self) -> None:
        """All of it."""
        total = "select count(*) from pg_temp.chosen where policy = %s"
        row = self.purger.connection.execute(total, (self._policy,)).fetchone()
        done, whole = 0, row[0] if row else 0
        self._experiments()
        for kind, action in _WORK:
            size, last = _FIRST_BATCH, ""
            while items := self._next(kind, action, last, size):
                self.wait()
                self._archive(kind, action, items)
                began = time.monotonic()
                batch = self._tried(kind, action, items)
                if batch is None:  # too much for one statement
                    size = max(1, len(items) // 2)
                    if len(items) == 1:
                        last = items[-1].id
                    continue
                last = items[-1].id
                took = max(0.01, time.monotonic() - began)
                size = int(min(_LARGEST_BATCH, 2 * size, max(1, size * _TARGET / took)))
                self._count(kind, action, batch)
                done += len(items)
                self.progress(done, whole)

    def _experiments(self) -> None:
        """Deleted experiments, each with everything in it or not at all; small ones together. Those of more
        than `_WHOLE` things are left to the batches."""
        sizes = (
            "select experiment_id, count(*) from pg_temp.chosen where policy = %s"
            " and (rule = 'experiment' or kind = 'experiment') group by 1 having count(*) <= %s order by 1"
        )
        groups: list[list[int]] = [[]]
        room = _LARGEST_BATCH
        for experiment, count in self.purger.connection.execute(sizes, (self._policy, _WHOLE)):
            if count > room and groups[-1]:
                groups.append([])
                room = _LARGEST_BATCH
            groups[-1].append(experiment)
            room -= count
        for group in filter(None, groups):
            self.wait()
            if not self._whole(group, alone=len(group) == 1):
                for experiment in group if len(group) > 1 else ():
                    self._whole([experiment], alone=True)
            self.purger.connection.execute(
                "delete from pg_temp.chosen where experiment_id = any(%s) and policy = %s"
                " and (rule = 'experiment' or kind = 'experiment')",
                (group, self._policy),
            )

    def _whole(self, experiments: list[int], *, alone: bool) -> bool:
        """These experiments in one transaction, which is rolled back when anything in them must stay."""
        import psycopg

        for kind in _WITHIN:  # before the transaction, which must not wait for a store
            last = ""
            while items := self._next(kind, "purge", last, _LARGEST_BATCH, experiments):
                self._archive(kind, "purge", items)
                last = items[-1].id
        batches: list[tuple[str, Batch]] = []
        gone = False
        with self.purger.connection.transaction() as transaction:
            # All of it is compared with its archives before anything goes: with a trace go rows of runs.
            steps = [("compare", kind) for kind in _WITHIN] if self.purger.policy.spec.archive else []
            compared = replace(self, purger=replace(self.purger, compared=bool(steps)))
            for action, kind in (*steps, *(("purge", kind) for kind in _WITHIN)):
                size, last = _LARGEST_BATCH, ""
                while items := self._next(kind, "purge", last, size, experiments):
                    batch = (self if action == "compare" else compared)._tried(kind, action, items)
                    if batch is None and len(items) > 1:
                        size = len(items) // 2
                        continue
                    if batch is None or any(batch.kept.values()):
                        if batch and alone:
                            self.report.kept.update(batch.kept)
                        raise psycopg.Rollback(transaction)
                    if action == "purge":
                        batches.append((kind, batch))
                    elif len(batch.done) < len(items):  # a lock that never came free
                        raise psycopg.Rollback(transaction)
                    last = items[-1].id
            if len(batches[-1][1].done) < len(experiments):
                raise psycopg.Rollback(transaction)
            gone = True
        for kind, batch in batches if gone else ():
            self._count(kind, "purge", batch)
        return gone

    def _archive(self, kind: str, action: str, items: Sequence[Item]) -> None:
        """See that these are archived, where the policy wants it, before they are purged."""
        archiver, policy = self.purger.archiver, self.purger.policy
        if archiver is None or policy.spec.archive is None or action != "purge" or kind not in ARCHIVED:
            return
        told = archiver.ensure(policy, kind, [i.id for i in items])
        if told is not None:
            self.report.notes.append(told)

    def _next(
        self, kind: str, action: str, last: str, size: int, experiments: list[int] | None = None
    ) -> list[Item]:
        """What comes after the id `last`; of these experiments as a whole, if they are given."""
        rows = self.purger.connection.execute(
            "select id, experiment_id, rule, stamp from pg_temp.chosen where kind = %s and id > %s"
            " and policy = %s and action = %s and (%s::int[] is null or (experiment_id = any(%s::int[])"
            " and (rule = 'experiment' or kind = 'experiment'))) order by id limit %s",
            (kind, last, self._policy, action, experiments, experiments, size),
        )
        return [Item(*row) for row in rows]

    def _tried(self, kind: str, action: str, items: Sequence[Item]) -> Batch | None:
        """One batch, tried again where somebody else's locks were in the way; None where it took too long."""
        from psycopg import errors

        for attempt in range(_ATTEMPTS):
            try:
                return self.purger.carry_out(kind, action, items)
            except (errors.DeadlockDetected, errors.LockNotAvailable) as error:
                reason = str(error).splitlines()[0]
                time.sleep(random.uniform(0, 0.2 * 2**attempt))  # noqa: S311 - no secret
            except errors.QueryCanceled:
                if len(items) == 1:
                    self.report.problems.append(
                        f"{kind} {items[0].id}: needs longer than spec.statementTimeout"
                    )
                return None
        self.report.problems.append(f"{len(items)} {kind}s from {items[0].id} on: {reason}")
        return Batch()

    def _count(self, kind: str, action: str, batch: Batch) -> None:
        for item in batch.done:
            share = self.report.share(item.experiment, self.names)
            (share.quarantined if action == "quarantine" else share.purged)[kind] += 1
        self.report.kept.update(batch.kept)
        self.report.rows.update(batch.rows)
