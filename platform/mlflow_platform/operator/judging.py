"""Which documents may be carried out, which changes of a plan, and what became of each document. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from mlflow_platform.apply.execute import Result
from mlflow_platform.apply.rounds import Round, Target
from mlflow_platform.errors import Problem
from mlflow_platform.model.experiment_set import ExperimentSet
from mlflow_platform.model.tracking_server import Allowance
from mlflow_platform.operator.conditions import Members, Outcome, Reason
from mlflow_platform.operator.entries import Entry, contested
from mlflow_platform.operator.tenancy import reaches, refusal
from mlflow_platform.plan.engine import Plan
from mlflow_platform.plan.objects import Action, Change, Desired, Key, ObjectProblem, SecretRef
from mlflow_platform.plan.render import field_text


@dataclass(frozen=True)
class Judged:
    """The documents of one server, each by its origin in exactly one of the three."""

    live: Mapping[str, Entry]
    """Those that are to be carried out."""
    refused: Mapping[str, tuple[Entry, Outcome]]
    """Those that are not, and why; what they declared before stays as it is."""
    deleting: Mapping[str, Entry]
    """Those that are about to go."""
    reaches: Callable[[Entry, Key], bool]
    """Whether a document may be about an object, whatever the object's mark says."""
    namespace: str
    """The operator's own."""

    @property
    def desired(self) -> list[Desired]:
        return [item for entry in self.live.values() for item in entry.desired]


def judge(
    entries: Sequence[Entry],
    target: Target | None,
    allowed: Sequence[Allowance],
    labels: Mapping[str, Mapping[str, str]],
    namespace: str,
) -> Judged:
    """Sort the documents of one server. `namespace` is the operator's own, which may declare everything."""
    staying = [e for e in entries if not e.deleting]
    refused: dict[str, tuple[Entry, Outcome]] = {}
    for entry in staying:
        problem, reason = entry.mistake, Reason.INVALID
        if problem is None and entry.document is not None and entry.namespace != namespace:
            of_namespace = labels.get(entry.namespace)
            if of_namespace is None:  # without labels, it would be selected by what it must not have
                what = f"the labels of the namespace {entry.namespace} are not known yet"
                problem, reason = Problem(what), Reason.WAITING
            else:
                reason = Reason.NOT_ALLOWED
                problem = refusal(entry.document, entry.desired, allowed, of_namespace)
        if problem is not None:
            refused[entry.origin] = entry, Outcome(reason, said(problem))
    fit = [e for e in staying if e.origin not in refused]
    twice = contested(fit)  # what may not be declared takes nobody's place
    live: dict[str, Entry] = {}
    for entry in fit:
        problem, reason = twice.get(entry.origin), Reason.CONFLICT
        if problem is None and target is not None:
            problem, reason = _not_offered(entry.desired, target), Reason.REJECTED
        if problem is None:
            live[entry.origin] = entry
        else:
            refused[entry.origin] = entry, Outcome(reason, said(problem))

    def within(entry: Entry, key: Key) -> bool:
        of_namespace = labels.get(entry.namespace)
        return entry.namespace == namespace or (
            of_namespace is not None and reaches(entry.kind, key, allowed, of_namespace)
        )

    return Judged(live, refused, {e.origin: e for e in entries if e.deleting}, within, namespace)


def _not_offered(desired: Iterable[Desired], target: Target) -> Problem | None:
    """Why a server cannot have the objects, whatever else is on it."""
    for item in desired:
        needs = target.kinds[item.key.kind].needs
        if needs not in target.offers or (not target.auth and any(p[0] == "grants" for p in item.fields)):
            word = {"workspaces": "workspaces"}.get(needs, "basic auth")
            return Problem(
                f"the server {target.address} has no {word}", "switch it on, or remove the document"
            )
        if not target.workspaces_on and item.key.workspace not in ("", "default"):
            what = f"the server {target.address} has no workspaces, so there is no {item.key.workspace!r}"
            return Problem(what, "leave spec.workspace out, or switch workspaces on")
    return None


def restrict(
    plan: Plan, judged: Judged, origins: Collection[str] | None = None, elsewhere: Collection[str] = ()
) -> Plan:
    """The plan with what a cluster's documents ask for, of `origins` only where they are given.

    `elsewhere` are documents that name another TrackingServer: it may lead to the same MLflow, and what it
    looks after is left to it.

    An object is deleted only while its document is there and says so: one that is being deleted and held by
    its finalizer, or a set that has lost a member. Where the document has vanished, its object stays.
    """
    changes = []
    for change in plan.changes:
        origin = document_of(change.origin)
        if origins is not None and origin not in origins:
            continue
        if change.action in (Action.FORGET, Action.DELETE):
            if origin in judged.refused or origin in elsewhere:
                continue
            change = _given_up(change, origin, judged)
        changes.append(change)
    return replace(plan, changes=tuple(changes))


def _given_up(change: Change, origin: str, judged: Judged) -> Change:
    entry = judged.deleting.get(origin) or judged.live.get(origin)
    if entry is not None and not judged.reaches(entry, change.key):
        return replace(change, action=Action.FORGET, reason="its document may not be about it: it stays")
    entry = judged.deleting.get(origin)
    if entry is not None and change.base != "absent":
        if entry.held and not entry.abandoned:
            reason = "its document is being deleted, and its deletionPolicy is Delete"
            return replace(change, action=Action.DELETE, reason=reason)
    elif origin in judged.live:
        return change
    return replace(change, action=Action.FORGET, reason="its document is gone: the object stays")


def document_of(origin: str) -> str:
    """The origin of the document of a member of a set, or of any other object."""
    return origin.split("#")[0]


def said(problem: Problem) -> str:
    """A problem in one line."""
    return (
        f"{problem.what}. {problem.remedy[:1].upper()}{problem.remedy[1:]}"
        if problem.remedy
        else problem.what
    )


@dataclass
class Verdicts:
    """What becomes of the objects of a round, as it goes on, and from that of their documents."""

    round: Round
    plan: Plan
    """As it is to be carried out: restricted."""
    judged: Judged
    missing: Collection[SecretRef] = ()
    """Secrets that could not be read."""
    held: Mapping[Key, str] = field(default_factory=dict)
    """What the brake holds back of the plan, and why."""

    def __post_init__(self) -> None:
        self._of: dict[Key, Outcome] = {}
        self._owed: dict[str, set[Key]] = {}
        self._losses: dict[str, list[Key]] = {}
        """What each document gives up."""
        for change in self.plan.losses:
            self._losses.setdefault(document_of(change.origin), []).append(change.key)
        for problem in self.plan.problems:
            text = said(self._for_its_namespace(problem))
            self._of[problem.key] = Outcome(self._reason(problem.key, problem.blocked), text)
        for change in self.plan.held:
            self._of[change.key] = Outcome(Reason.DIFFERS, f"the server differs: {fields_of(change)}")
        for change in self.plan.changes:
            if change.key in self.held:
                self._of[change.key] = Outcome(Reason.BRAKE_STOPPED, self.held[change.key])
            else:
                self._owed.setdefault(document_of(change.origin), set()).add(change.key)

    def _for_its_namespace(self, found: ObjectProblem) -> Problem:
        """Without a guess at what a tenant meant: that would name other tenants' objects and users."""
        entry = self.judged.live.get(document_of(found.origin))
        if not found.blocked or entry is None or entry.namespace == self.judged.namespace:
            return found.problem
        return replace(found.problem, remedy="declare it, or correct the name")

    def _reason(self, key: Key, blocked: bool) -> Reason:
        found = self.round.observed.get(key)
        if blocked:
            return Reason.WAITING
        if found is not None and found.mark is not None and found.mark.owner != self.plan.owner:
            return Reason.CONFLICT
        wanted = self._wanted.get(key)
        if wanted is not None and any(r in self.missing for r in wanted.secrets.values()):
            return Reason.WAITING
        return Reason.REJECTED

    @cached_property
    def _wanted(self) -> dict[Key, Desired]:
        return {d.key: d for d in self.judged.desired}

    def take(self, result: Result) -> str | None:
        """Note a result. The origin of its document where that was the last one it waited for."""
        origin, key = document_of(result.change.origin), result.change.key
        if result.error is not None:
            reasons = {
                "rejected": Reason.REJECTED,
                "blocked": Reason.WAITING,
                "transient": Reason.RETRYING,
                "fatal": Reason.RETRYING,
            }
            self._of[key] = Outcome(reasons[result.outcome], said(result.error.problem))
        owed = self._owed.get(origin, set())
        owed.discard(key)
        return None if owed else origin

    def pending(self, origin: str) -> bool:
        """Whether a change of the document has not ended yet."""
        return bool(self._owed.get(origin))

    def of(self, entry: Entry) -> tuple[Outcome, Members | None]:
        """What became of a live document, and for a set of its members."""
        found = [(d.key.name, self._of[d.key]) for d in entry.desired if d.key in self._of]
        # A member that has left the set and could not be deleted.
        keys = {d.key for d in entry.desired}
        lost = self._losses.get(entry.origin, ())
        found += [(key.name, self._of[key]) for key in lost if key in self._of and key not in keys]
        if not isinstance(entry.document, ExperimentSet):
            return (found[0][1] if found else Outcome(Reason.SYNCED)), None
        found.sort(key=lambda item: (not item[1].stalled, item[0]))
        failures = [(name, f"{o.reason}: {o.message}") for name, o in found]
        members = Members(len(entry.desired), len(keys - set(self._of)), failures)
        if not found:
            return Outcome(Reason.SYNCED), members
        name, worst = found[0]
        message = f"{len(found)} of {len(entry.desired)} members are not as declared; {name}: {worst.message}"
        return Outcome(worst.reason, message), members

    def of_deleted(self, origin: str) -> Outcome | None:
        """Why a document that is being deleted cannot go yet; None where nothing is left to do."""
        return next((self._of[key] for key in self._losses.get(origin, ()) if key in self._of), None)


def fields_of(change: Change) -> str:
    """The changed fields, before and after."""
    return ", ".join(field_text(f) for f in change.fields)
