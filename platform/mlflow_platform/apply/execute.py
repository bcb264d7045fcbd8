"""Carry out a plan: in its order, a bounded number of changes at once, each failing alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from mlflow_platform.apply.ledger import Ledger
from mlflow_platform.apply.lock import ApplyLock
from mlflow_platform.apply.rounds import Round, Scope, Target, observe, plan_round
from mlflow_platform.errors import BadInput, Blocked, Fatal, PlatformError, Transient
from mlflow_platform.plan.brakes import check
from mlflow_platform.plan.engine import Plan
from mlflow_platform.plan.objects import Action, Change, Desired, Key
from mlflow_platform.plan.saved import SavedPlan, stale

Outcome = Literal["done", "rejected", "blocked", "transient", "fatal"]


@dataclass(frozen=True)
class Result:
    """What became of one change."""

    change: Change
    error: PlatformError | None = None

    @property
    def outcome(self) -> Outcome:
        if self.error is None:
            return "done"
        if isinstance(self.error, Transient):
            return "transient"
        if isinstance(self.error, Blocked):
            return "blocked"
        return "fatal" if isinstance(self.error, Fatal) else "rejected"


Report = Callable[[Result], None]
"""Called once for each change as it ends, from one thread at a time."""


def execute(
    target: Target,
    changes: Sequence[Change],
    ledger: Ledger,
    report: Report = lambda _: None,
    stop: threading.Event | None = None,
) -> list[Result]:
    """The result of every change, in the order in which they ended.

    Changes of one rank run together, `target.concurrency` at once. A change that refers to an object
    whose change failed is blocked. A fatal error, or `stop`, ends what has not begun.
    """
    if any(target.kinds[c.key.kind].ledgered for c in changes):
        ledger.open(target.api)
    results: list[Result] = []
    failed: set[Key] = set()
    stop = stop or threading.Event()
    with ThreadPoolExecutor(target.concurrency) as pool:
        for _, group in groupby(changes, key=lambda c: _stage(target, c)):
            for result in _together(pool, target, group, ledger, failed.copy(), stop):
                if result.error is not None:
                    failed.add(result.change.key)
                    if isinstance(result.error, Fatal):
                        stop.set()
                results.append(result)
                report(result)
    return results


def _stage(target: Target, change: Change) -> tuple[bool, int]:
    return change.action in (Action.FORGET, Action.DELETE), target.kinds[change.key.kind].traits.rank


def _together(
    pool: ThreadPoolExecutor,
    target: Target,
    changes: Iterable[Change],
    ledger: Ledger,
    failed: set[Key],
    stop: threading.Event,
) -> Iterator[Result]:
    """Run the changes with a short queue, so that memory stays flat and a stop takes effect at once."""
    waiting: set[Future[Result]] = set()
    for change in changes:
        waiting.add(pool.submit(_one, target, change, ledger, failed, stop))
        if len(waiting) >= 2 * target.concurrency:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (f.result() for f in done)
    done, _ = wait(waiting)
    yield from (f.result() for f in done)


def _one(target: Target, change: Change, ledger: Ledger, failed: set[Key], stop: threading.Event) -> Result:
    missing = sorted(change.requires & failed)
    if stop.is_set():
        return Result(change, Blocked("not tried: an earlier error stopped the apply"))
    if missing:
        return Result(change, Blocked(f"{change.key} waits for {missing[0]}, which failed"))
    try:
        _carry_out(target, change, ledger)
    except PlatformError as error:
        return Result(change, error)
    return Result(change)


def _carry_out(target: Target, change: Change, ledger: Ledger) -> None:
    kind = target.kinds[change.key.kind]
    header = target.header(change.key.workspace)
    secrets = {path: target.resolve(ref) for path, ref in change.secrets.items()}
    if not kind.ledgered:
        kind.execute(target.api, change, secrets, header)
        return
    if change.action is Action.CREATE and change.mark:
        ledger.intend(target.api, change.key, change.mark)
    if change.fields or change.action in (Action.CREATE, Action.DELETE):
        kind.execute(target.api, change, secrets, header)
    if change.mark is None:
        ledger.drop(target.api, change.key)
    else:
        hmacs = {path: ledger.hmac(change.key, path, value) for path, value in secrets.items()}
        cleared = {f.path for f in change.fields if f.sensitive and f.new is None}
        ledger.record(target.api, change.key, change.mark, hmacs, cleared)


def prepare_saved(target: Target, saved: SavedPlan, allowed: str | None = None) -> Ledger:
    """See that a saved plan may be carried out, and read the ledger for it. Writes nothing.

    Raises `BadInput` ("plan again") where an object it touches is no longer what the plan was made from,
    and `BrakeStopped`.
    """
    observed, ledger = observe(target, saved.desired, every_kind=True)
    moved = stale(saved, {o.key: o for o in observed})
    if moved:
        names = ", ".join(str(k) for k in moved[:5]) + (", ..." if len(moved) > 5 else "")
        raise BadInput(
            f"{len(moved)} object(s) changed on the server since the plan was saved: {names}; "
            "nothing was written",
            remedy="plan again: mlplatform plan --out",
        )
    check(saved.plan, target.brakes, allowed)
    return ledger


def carry_out_saved(
    target: Target,
    saved: SavedPlan,
    *,
    allowed: str | None = None,
    report: Report = lambda _: None,
    waiting: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """Carry out a saved plan under the lock, once it passes `prepare_saved` there too."""
    with ApplyLock(target.api, target.owner, target.header("default"), waiting=waiting) as lock:
        ledger = prepare_saved(target, saved, allowed)
        return execute(target, saved.plan.changes, ledger, report, lock.lost)


def apply_whole(
    target: Target,
    desired: Sequence[Desired],
    scope: Scope,
    *,
    allowed: str | None = None,
    report: Report = lambda _: None,
    waiting: Callable[[str], None] = lambda _: None,
    accept: Callable[[Plan], None] = lambda _: None,
) -> list[Result]:
    """Take the lock, plan, and converge. The last result of every object.

    `accept` sees the plan before the first write and raises where it is not to be carried out. Raises
    `BrakeStopped` before the first write, and `Blocked` where another apply does not end.
    """
    with ApplyLock(target.api, target.owner, target.header("default"), waiting=waiting) as lock:
        first = plan_round(target, desired, scope)
        accept(first.plan)
        return converge(target, desired, scope, first, allowed=allowed, report=report, stop=lock.lost)


def converge(
    target: Target,
    desired: Sequence[Desired],
    scope: Scope,
    first: Round,
    *,
    allowed: str | None = None,
    report: Report = lambda _: None,
    stop: threading.Event | None = None,
    passes: int = 3,
) -> list[Result]:
    """Carry out the plan of `first`; objects whose outcome is unknown are looked at and planned again.

    The last result of every object. Raises `BrakeStopped` before the first write.
    """
    check(first.plan, target.brakes, allowed)
    stop = stop or threading.Event()
    found = execute(target, first.plan.changes, first.ledger, report, stop)
    results = {r.change.key: r for r in found}
    for _ in range(passes - 1):
        again = {k for k, r in results.items() if r.outcome in ("transient", "blocked")}
        if stop.is_set() or not any(results[k].outcome == "transient" for k in again):
            break
        try:
            later = plan_round(target, desired, scope)
        except Transient:
            break  # still away: the results say so
        changes = [c for c in later.plan.changes if c.key in again]
        left = {c.key for c in changes} | {p.key for p in later.plan.problems}
        for key in again - left:
            results[key] = Result(results[key].change)
        found = execute(target, changes, later.ledger, report, stop)
        results.update({r.change.key: r for r in found})
    return list(results.values())
