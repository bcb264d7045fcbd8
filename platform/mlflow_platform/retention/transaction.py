"""What every transaction of a policy shares: what is checked again when the rows are locked, and where the
objects of a thing are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_platform.errors import Fatal
from mlflow_platform.model.retention_policy import RetentionPolicy
from mlflow_platform.retention import journal, rows
from mlflow_platform.retention.archiving import Archiver
from mlflow_platform.retention.choose import abandoned_before, now
from mlflow_platform.retention.journal import Entry, Installation
from mlflow_platform.retention.protections import protected
from mlflow_platform.retention.roots import Place, Roots

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True, slots=True)
class Item:
    """One chosen thing. `stamp`: its deletion time when it was chosen, which must be the same still."""

    id: str
    experiment: int | None
    rule: str
    stamp: int | None


@dataclass
class Batch:
    """What became of a batch."""

    done: list[Item] = field(default_factory=list)
    kept: Counter[str] = field(default_factory=Counter)
    """Why the others stay."""
    rows: Counter[str] = field(default_factory=Counter)
    """Deleted rows by table."""


@dataclass(frozen=True)
class Transaction:
    """The connection of one policy. `step` is called with a name before and after each transaction that
    writes."""

    connection: psycopg.Connection[Any]
    installation: Installation
    roots: Roots
    policy: RetentionPolicy
    step: Callable[[str], None] = lambda _: None
    archiver: Archiver | None = None
    compared: bool = False
    """Whether all of it has been compared with its archives in the transaction that is open."""

    def _compare(self, kind: str, items: Sequence[Item], batch: Batch) -> None:
        """Lock these, and keep what is not archived as it is."""
        batch.done += self._archived(kind, self._of_deleted_experiments(items, batch), batch)

    def _of_deleted_experiments(self, items: Sequence[Item], batch: Batch) -> list[Item]:
        """Those of `items` that the rule about whole experiments did not choose, or whose experiment, now
        locked, is still deleted since the same moment."""
        whole = {i.experiment: i.stamp for i in items if i.rule == "experiment"}
        if not whole:
            return list(items)
        query = (
            "select experiment_id, last_update_time from public.experiments where experiment_id = any(%s)"
            " and lifecycle_stage = 'deleted' order by experiment_id for update"
        )
        now_deleted = dict(self.connection.execute(query, ([e for e in whole if e is not None],)).fetchall())
        left = [
            i
            for i in items
            if i.rule != "experiment"
            or (i.experiment in now_deleted and (now_deleted[i.experiment] or 0) == i.stamp)
        ]
        batch.kept["its experiment was restored"] += len(items) - len(left)
        return left

    def _changed(self, kind: str, items: Sequence[Item], found: Container[str], batch: Batch) -> None:
        """Count what somebody restored or changed since it was chosen; what is gone is no news."""
        missing = [i.id for i in items if i.id not in found]
        if missing:
            still = self._ids(_STILL[kind], missing)
            batch.kept["restored or changed meanwhile"] += len(still)

    def _lock_versions(self) -> None:
        """No version is made until we commit: create_model_version looks at no row that we hold."""
        self.connection.execute("lock table public.model_versions in share row exclusive mode")

    def _unprotected(
        self, kind: str, items: Sequence[Item], batch: Batch, *, choosing: bool = False
    ) -> list[Item]:
        reasons = protected(
            self.connection,
            kind,
            [i.id for i in items],
            pin=self.policy.spec.pinTag,
            abandoned=abandoned_before(self.policy.spec, now(self.connection)),
            choosing=choosing,
        )
        pinned = {
            row[0]
            for row in self.connection.execute(
                "select experiment_id from public.experiment_tags where experiment_id = any(%s) and key = %s"
                " and lower(value) is distinct from 'false'",
                (sorted({i.experiment for i in items if i.experiment is not None}), self.policy.spec.pinTag),
            )
        }
        reasons |= {i.id: "pinned experiment" for i in items if i.experiment in pinned}
        batch.kept.update(reasons.values())
        return [i for i in items if i.id not in reasons]

    def _archived(self, kind: str, items: Sequence[Item], batch: Batch) -> list[Item]:
        """Those that are archived as they are, where the policy archives; nobody changes them now."""
        if self.policy.spec.archive is None or self.compared or not items:
            return list(items)
        if self.archiver is None:
            raise Fatal("the policy archives, and nothing is there to do it", remedy="report this as a bug")
        same = self.archiver.unchanged(self.connection, self.policy, kind, [i.id for i in items])
        batch.kept["not archived as it is now: the next run tries again"] += len(items) - len(same)
        return [i for i in items if i.id in same]

    def _place(
        self,
        kind: str,
        own: str,
        uri: str | None,
        experiment: int | None,
        entries: list[Entry],
        of: str,
        lost: dict[str, str],
    ) -> None:
        """Note where a thing's objects are, or in `lost` why `of` must stay because nobody could say."""
        if not uri:
            entries.append(Entry(kind, own, "", experiment, None, None))
            return
        place = self.roots.place(uri, own)
        if isinstance(place, Place):
            entries.append(Entry(kind, own, uri, experiment, place.root, place.prefix))
        else:
            lost[of] = place

    @staticmethod
    def _reachable(items: Sequence[Item], lost: dict[str, str], batch: Batch) -> list[Item]:
        batch.kept.update(lost.values())
        return [i for i in items if i.id not in lost]

    def _hold(self, kind: str, items: Sequence[Item], stamp: int | None) -> None:
        held = [(i.id, i.rule, stamp) for i in items]
        journal.hold(self.connection, kind, self.policy.metadata.name, held)

    def _ids(self, query: str, *values: Any) -> set[str]:
        return {row[0] for row in self.connection.execute(query, values)}

    def _delete(self, batch: Batch, conditions: dict[str, str], ids: Sequence[Any]) -> None:
        rows.delete(self.connection, conditions, ids, batch.rows)


_STILL = {
    "run": "select run_uuid from public.runs where run_uuid = any(%s)",
    "logged model": "select model_id from public.logged_models where model_id = any(%s)",
    "trace": "select request_id from public.trace_info where request_id = any(%s)",
}
