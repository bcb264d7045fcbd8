"""Rounds of one tracking server: plan with the engine, carry out, say what became of each document."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from mlflow_platform.adapters.election import NotLeading
from mlflow_platform.adapters.servers import connect_documented
from mlflow_platform.apply.execute import Result, execute
from mlflow_platform.apply.rounds import Scope, Target, plan_round
from mlflow_platform.errors import BadInput, Fatal, PlatformError, Rejected, Transient
from mlflow_platform.model.tracking_server import TrackingServer
from mlflow_platform.operator.braking import Brake, Held
from mlflow_platform.operator.conditions import Outcome, Reason, members_status, seen, was_ready
from mlflow_platform.operator.entries import ALLOW_DESTRUCTIVE, Entry, serves
from mlflow_platform.operator.judging import Judged, Verdicts, document_of, fields_of, judge, restrict, said
from mlflow_platform.operator.rounds import Ended, Planned, Site, Touched
from mlflow_platform.operator.secrets import ClusterSecrets
from mlflow_platform.plan.engine import Plan
from mlflow_platform.plan.objects import Action, Key

log = logging.getLogger(__name__)

#: For how long a request that fails is repeated within a round, in seconds: the next round comes anyway.
_RETRY_SECONDS = 10.0
#: Requests to Kubernetes under way at once.
_PATCHES_AT_ONCE = 4


class Reconciler:
    """One tracking server, by the name that documents give it. One round at a time; but `look` may run in a
    thread of its own, beside scoped rounds."""

    def __init__(self, name: str, site: Site) -> None:
        self.name = name
        self._site = site
        self._target: Target | None = None
        self._sent: dict[str, int] = {}
        self._known: dict[str, frozenset[Key]] = {}
        """The objects that each document declared when it was last planned."""
        self._brake = Brake(name)
        self._meanwhile = Touched()
        """What scoped rounds looked after since the last full one began."""

    @property
    def connected(self) -> bool:
        """Whether scoped rounds can be made."""
        return self._target is not None

    def look(self) -> Callable[[], Ended]:
        """The first half of a full round: list everything that is declared and everything that is there, and
        make one plan of it. The second half, which writes, is what this returns.

        Scoped rounds may come in between. What they look after is left to them.
        """
        began = time.monotonic()
        self._meanwhile = Touched()
        self._site.cache.refresh(began)
        server = self._site.cache.server(self.name)
        entries = self._site.cache.of_server(self.name)
        if not serves(self._site.operator, server):
            self._target = None
            self._forget_rounds()
            return Ended
        if server is None or server.deleting:
            return lambda: self._without_server(entries)
        if server.mistake is not None:
            return partial(self._unusable, server, entries, Outcome(Reason.INVALID, said(server.mistake)))
        try:
            target = self._connect(server)
        except NotLeading:
            raise
        except PlatformError as error:
            return partial(self._unusable, server, entries, _connection_outcome(error))
        try:
            planned = self._plan(target, server, entries, None)
        except Transient as error:
            return partial(self._unusable, server, entries, _connection_outcome(error))
        return partial(self._finish, target, planned, began)

    def _finish(self, target: Target, planned: Planned, began: float) -> Ended:
        self._adopt(target)
        try:
            ended = self._carry_out(planned, self._meanwhile)
        except Transient as error:
            return self._unusable(planned.server, planned.entries, _connection_outcome(error))
        finally:
            self._count_requests()
        self._site.metrics.set("round_seconds", time.monotonic() - began, server=self.name)
        return ended

    def scoped(self, origins: Collection[str]) -> Ended:
        """Plan and carry out what these documents ask for, those that are gone too, and nothing else."""
        server = self._site.cache.server(self.name)
        if not serves(self._site.operator, server):
            return Ended()
        if self._target is None or server is None or server.deleting or server.document is None:
            return Ended(well=False, again=set(origins))
        entries = self._site.cache.of_server(self.name)
        try:
            planned = self._plan(self._target, server, entries, frozenset(origins))
            self._meanwhile.origins.update(origins)
            self._meanwhile.keys.update(planned.keys)
            return self._carry_out(planned, Touched())
        finally:
            self._count_requests()

    def _connect(self, server: Entry) -> Target:
        document = server.document
        assert isinstance(document, TrackingServer)  # noqa: S101 - the cache keeps them by kind
        secrets = ClusterSecrets(self._site.cluster, self._site.namespace)
        return connect_documented(
            document,
            self._site.owner,
            secrets,
            gate=self._site.term.check,
            retry_seconds=_RETRY_SECONDS,
        )

    def _adopt(self, target: Target) -> None:
        """Keep a connection for the scoped rounds that follow; the one before is closed."""
        old, self._target, self._sent = self._target, target, {}
        close = getattr(old.api, "close", None) if old is not None else None
        if close is not None:
            close()

    def _plan(
        self, target: Target, server: Entry, entries: list[Entry], origins: frozenset[str] | None
    ) -> Planned:
        """Observe, and plan. Writes nothing."""
        site = self._site
        assert isinstance(server.document, TrackingServer)  # noqa: S101 - looked at by the callers
        secrets = ClusterSecrets(site.cluster)
        target = replace(target, resolve=lambda ref: secrets.resolve(ref.name, ref.key, ref.namespace))
        judged = judge(entries, target, server.document.spec.allowed, site.cache.labels(), site.namespace)
        desired = [
            d for e in judged.live.values() if origins is None or e.origin in origins for d in e.desired
        ]
        keys = frozenset() if origins is None else self._objects(origins, judged)
        round_ = plan_round(target, desired, Scope() if origins is None else Scope(only=keys))
        return Planned(target, server, entries, origins, judged, round_, secrets, keys)

    def _carry_out(self, planned: Planned, others: Touched) -> Ended:
        """Carry a plan out but for what `others` look after, and say what became of each document."""
        site, target, judged, round_ = self._site, planned.target, planned.judged, planned.round
        origins = planned.origins
        ended = Ended()
        shared = others.declared_by(planned.entries)
        ended.again |= shared
        done = shared | others.origins
        mine = [
            e for e in planned.entries if (origins is None or e.origin in origins) and e.origin not in done
        ]
        self._hold(mine, judged, ended)
        plan = others.left_out_of(restrict(round_.plan, judged, origins, site.cache.elsewhere(self.name)))
        if origins is None:
            self._brake.look(round_)
        held = self._brake.hold(plan, target.brakes, planned.server.annotations.get(ALLOW_DESTRUCTIVE))
        if origins is not None and held.losses:
            # What is held back is said by a full round, with the hash of its plan; once is enough.
            if not all(self._says_held(o, judged) for o in held.origins):
                return Ended(well=False, again=set(origins))
            ended.again |= held.origins
            mine = [e for e in mine if e.origin not in held.origins]
        verdicts = Verdicts(round_, plan, judged, planned.secrets.missing, held.losses)
        with ThreadPoolExecutor(_PATCHES_AT_ONCE, "publish") as pool:
            work: list[Future[None]] = []

            def report(result: Result) -> None:
                ready = verdicts.take(result)
                self._tell(result, judged)
                if ready is not None and ready not in shared and (not origins or ready not in held.origins):
                    work.append(pool.submit(self._publish, ready, verdicts, ended))

            # Most documents are as they were and say so: that is told here, without a thread's detour.
            settled = [e for e in mine if not verdicts.pending(e.origin) and not self._says_so(e, verdicts)]
            work.extend(pool.submit(self._publish, e.origin, verdicts, ended) for e in settled)
            if held.plan.changes:
                stop = threading.Event()
                results = execute(target, held.plan.changes, round_.ledger, report, stop)
                ended.wrote = any(r.error is None for r in results)
                self._brake.note(results)
            for future in work:
                future.result()
        for entry in mine:
            if entry.origin in judged.live:
                self._known[entry.origin] = frozenset(d.key for d in entry.desired)
        if origins is None:
            there = judged.live.keys() | others.origins
            self._known = {o: keys for o, keys in self._known.items() if o in there}
            self._say_connected(planned.server, target, held, judged)
        site.term.check()
        return ended

    def _objects(self, origins: Iterable[str], judged: Judged) -> frozenset[Key]:
        """What documents declare, and what they declared when they were last planned."""
        keys: set[Key] = set()
        for origin in origins:
            entry = judged.live.get(origin) or judged.deleting.get(origin)
            keys.update(d.key for d in entry.desired) if entry else None
            keys.update(self._known.get(origin, ()))
        return frozenset(keys)

    def _hold(self, entries: Iterable[Entry], judged: Judged, ended: Ended) -> None:
        """Put the finalizer on documents whose objects go with them, before anything is made for them."""
        for entry in entries:
            if entry.deleting or entry.origin in judged.refused or entry.held == entry.wants_delete:
                continue
            if not self._site.publisher.finalizer(entry, entry.wants_delete):
                ended.again.add(entry.origin)

    def _says_held(self, origin: str, judged: Judged) -> bool:
        """Whether a document says that the brake holds it back."""
        entry = judged.deleting.get(origin) or judged.live.get(origin)
        return entry is None or any(
            c.get("type") == "Ready" and c.get("reason") == Reason.BRAKE_STOPPED
            for c in entry.status.get("conditions", ())
        )

    def _says_so(self, entry: Entry, verdicts: Verdicts) -> bool:
        """Whether a document is as declared, and its status says that already."""
        if entry.origin not in verdicts.judged.live:
            return False
        outcome, members = verdicts.of(entry)
        extra = members_status(members) if members else None
        return outcome.ready and not self._site.publisher.differs(entry, outcome, extra)

    def _publish(self, origin: str, verdicts: Verdicts, ended: Ended) -> None:
        """Say what became of a document. A failure is told in the log, and the next round says it."""
        judged, publisher = verdicts.judged, self._site.publisher
        try:
            if origin in judged.deleting:
                self._let_go(judged.deleting[origin], verdicts.of_deleted(origin), ended)
                return
            if origin in judged.refused:
                entry, outcome = judged.refused[origin]
                members = None
            elif origin in judged.live:
                entry = judged.live[origin]
                outcome, members = verdicts.of(entry)
            else:
                return  # its document has vanished
            changed = publisher.status(entry, outcome, members_status(members) if members else None)
            if changed and outcome.stalled:
                publisher.event(entry, "Warning", outcome.reason, outcome.message)
            if outcome.reason in (Reason.RETRYING, Reason.WAITING):
                ended.again.add(origin)
        except NotLeading:
            return
        except PlatformError as error:
            log.warning("%s: its status could not be written: %s", origin, error.problem.what)
            ended.again.add(origin)

    def _let_go(self, entry: Entry, left: Outcome | None, ended: Ended) -> None:
        """Drop the finalizer of a document of which nothing is left."""
        if left is not None and not entry.abandoned:
            if self._site.publisher.status(entry, left) and left.stalled:
                self._site.publisher.event(entry, "Warning", left.reason, left.message)
            ended.again.add(entry.origin)
        elif entry.held and not self._site.publisher.finalizer(entry, False):
            ended.again.add(entry.origin)

    def _tell(self, result: Result, judged: Judged) -> None:
        """An Event for what was changed; that a document was not carried out is said with its status."""
        change = result.change
        self._site.metrics.add(
            "changes_total", server=self.name, action=str(change.action), outcome=result.outcome
        )
        origin = document_of(change.origin)
        entry = judged.live.get(origin) or judged.deleting.get(origin)
        if entry is None or result.error is not None:
            return
        # What was as declared and is not any more was changed on the server, by hand or by another program.
        drift = seen(entry.status, entry.generation) and was_ready(entry.status)
        reason, what = change.action.past.capitalize(), f"{change.action.past} {change.key}"
        if drift and change.action in (Action.UPDATE, Action.CREATE, Action.ADOPT):
            reason, what = "DriftCorrected", f"{change.key} differed ({change.reason})"
        self._site.publisher.event(entry, "Normal", reason, f"{what}: {fields_of(change)}".removesuffix(": "))

    def _say_connected(self, server: Entry, target: Target, held: Held, judged: Judged) -> None:
        outcome = Outcome(Reason.CONNECTED)
        if held.losses:
            outcome = Outcome(Reason.BRAKE_STOPPED, held.message)
        extra = {
            "version": target.version,
            "declared": sum(len(e.desired) for e in judged.live.values()),
            "owned": self._owned_after(held.plan),
            "stoppedPlan": held.hash or None,
        }
        self._say(server, outcome, extra)
        self._site.metrics.set("last_round_timestamp_seconds", time.time(), server=self.name)
        counts = Counter(
            next((c["reason"] for c in e.status.get("conditions", ()) if c["type"] == "Ready"), "New")
            for e in self._site.cache.of_server(self.name)
        )
        self._site.metrics.replace("documents", "reason", dict(counts), server=self.name)

    @staticmethod
    def _owned_after(plan: Plan) -> int:
        made = sum(c.action in (Action.CREATE, Action.ADOPT) for c in plan.changes)
        return plan.owned + made - sum(c.action in (Action.FORGET, Action.DELETE) for c in plan.changes)

    def _say(self, server: Entry, outcome: Outcome, extra: dict[str, object]) -> None:
        if self._site.publisher.status(server, outcome, extra) and not outcome.ready:
            self._site.publisher.event(server, "Warning", outcome.reason, outcome.message)

    def _unusable(self, server: Entry, entries: list[Entry], outcome: Outcome) -> Ended:
        """The server cannot be worked with. Documents that were as declared keep saying so: what is known of
        them has not changed, and the TrackingServer says the rest."""
        log.warning("tracking server %s: %s: %s", self.name, outcome.reason, outcome.message)
        self._say(server, outcome, {})
        said_so = Outcome(Reason.SERVER_UNAVAILABLE, f"the server {self.name}: {outcome.message}")
        self._put_off([e for e in entries if e.deleting or not seen(e.status, e.generation)], said_so)
        return Ended(well=False)

    def _forget_rounds(self) -> None:
        for name in ("last_round_timestamp_seconds", "round_seconds"):
            self._site.metrics.forget(name, server=self.name)  # else it would age for ever

    def _without_server(self, entries: list[Entry]) -> Ended:
        self._forget_rounds()
        what = f"there is no TrackingServer {self.name!r}"
        self._put_off(entries, Outcome(Reason.SERVER_NOT_FOUND, f"{what}. Make one, or correct spec.server"))
        return Ended()

    def _put_off(self, entries: Iterable[Entry], outcome: Outcome) -> None:
        for entry in entries:
            if entry.deleting and (entry.abandoned or not entry.held):
                self._site.publisher.finalizer(entry, False)
            elif entry.deleting:
                hint = (
                    f"{outcome.message}. To let it go as it is: annotate it with mlplatform.io/abandon=true"
                )
                self._site.publisher.status(entry, replace(outcome, message=hint))
            else:
                self._site.publisher.status(entry, outcome)

    def _count_requests(self) -> None:
        if self._target is None:
            return
        sent = dict(self._target.api.sent)
        for kind in ("reads", "writes"):
            by = sent.get(kind, 0) - self._sent.get(kind, 0)
            if by:
                self._site.metrics.add("requests_total", by, server=self.name, kind=kind)
        self._sent = sent


def _connection_outcome(error: PlatformError) -> Outcome:
    if isinstance(error, Transient):
        return Outcome(Reason.SERVER_UNAVAILABLE, said(error.problem))
    if isinstance(error, BadInput):
        return Outcome(Reason.WAITING, said(error.problem))
    if isinstance(error, Fatal | Rejected):
        return Outcome(Reason.LOGIN_REFUSED, said(error.problem))
    return Outcome(Reason.RETRYING, said(error.problem))
