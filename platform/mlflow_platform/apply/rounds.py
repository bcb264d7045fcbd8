"""A round: look at the whole server in bulk, plan, and carry the plan out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from mlflow_platform.apply.ledger import Ledger
from mlflow_platform.errors import PlatformError
from mlflow_platform.kinds.base import Api, Kind, Snapshot
from mlflow_platform.plan.brakes import Brakes
from mlflow_platform.plan.engine import Plan, make_plan
from mlflow_platform.plan.objects import Desired, Key, ObjectProblem, Observed, SecretRef

_LISTS_AT_ONCE = 3

Resolve = Callable[[SecretRef], str]
"""The value of a secret. Raises `BadInput` where there is none."""


@dataclass(frozen=True)
class Target:
    """One tracking server as the engine sees it.

    `workspaces` are all workspace names (only `default` where workspaces are off); `address` is where the
    server is, without a login; `login_secret` is what the ledger's HMAC key is derived from; `auth` is
    whether the server asks for a login.
    """

    api: Api
    owner: str
    kinds: Mapping[str, Kind]
    resolve: Resolve
    login_secret: str = field(default="", repr=False)
    workspaces: Sequence[str] = ("default",)
    workspaces_on: bool = False
    auth: bool = True
    brakes: Brakes = field(default_factory=Brakes)
    concurrency: int = 8
    address: str = ""
    version: str = ""
    """MLflow's."""

    @property
    def offers(self) -> frozenset[str]:
        """What is switched on, in the terms of `Kind.needs`."""
        return frozenset({"", *(["auth"] * self.auth), *(["workspaces"] * self.workspaces_on)})

    def header(self, workspace: str) -> str | None:
        """The workspace to send with a call: none where workspaces are off."""
        return (workspace or None) if self.workspaces_on else None


@dataclass(frozen=True)
class Scope:
    """How much of what exists a round may touch.

    `prune`: owned objects without a document are given up. `adopt_from`, `adopt_all`: see `make_plan`.
    `only`: nothing but these objects, and what they refer to, is looked at; nothing else is given up.
    """

    prune: bool = True
    adopt_from: frozenset[str] = frozenset()
    adopt_all: bool = False
    only: frozenset[Key] | None = None


@dataclass(frozen=True)
class Round:
    """What was observed, and the plan made from it."""

    plan: Plan
    desired: tuple[Desired, ...]
    observed: Mapping[Key, Observed]
    ledger: Ledger


#: Kinds of which single objects can be asked for, and up to how many that is quicker than a list: one of
#: 5,000 takes MLflow about as long as 200 single ones.
_SINGLE = frozenset({"Experiment", "RegisteredModel", "Prompt"})
_MOST_SINGLE = 100


def observe(
    target: Target,
    wanted: Sequence[Desired],
    *,
    every_kind: bool,
    only: frozenset[Key] | None = None,
) -> tuple[list[Observed], Ledger]:
    """All objects of the kinds in question, with marks and HMACs of the ledger.

    `every_kind`: also kinds that no document declares, where this owner may have objects left. `only`: these
    objects are in question, whether `wanted` or not, and no others.
    """
    keys = frozenset() if only is None else only | {r for d in wanted for r in d.requires}
    single = {k.name for k in keys if k.kind in _SINGLE}
    # A role shows its permissions by the names of all that they are about.
    few = only is not None and len(single) <= _MOST_SINGLE and not any(k.kind == "MLflowRole" for k in keys)
    snapshot = Snapshot(
        target.api,
        target.workspaces,
        workspaces_on=target.workspaces_on,
        only=frozenset(single) if few else None,
    )
    ledger = Ledger.read(snapshot, target.login_secret)
    names = {d.key.kind for d in wanted} | {r.kind for d in wanted for r in d.requires}
    names |= {k.kind for k in keys}
    if every_kind:
        names |= {k.name for k in observable(target) if not k.ledgered}
        names |= set(ledger.owned_kinds(target.owner))
    return _observe(target, snapshot, ledger, names, wanted), ledger


def observe_all(target: Target) -> list[Observed]:
    """Every object of every kind that the server offers."""
    snapshot = Snapshot(target.api, target.workspaces, workspaces_on=target.workspaces_on, complete=True)
    ledger = Ledger.read(snapshot, target.login_secret)
    names = {k.name for k in observable(target)}
    return _observe(target, snapshot, ledger, names, ())


def observable(target: Target) -> list[Kind]:
    """The kinds that this server offers: no users without auth, no workspaces without workspaces."""
    return [k for k in target.kinds.values() if k.needs in target.offers]


def _observe(
    target: Target, snapshot: Snapshot, ledger: Ledger, names: Iterable[str], wanted: Sequence[Desired]
) -> list[Observed]:
    def look(name: str) -> list[Observed]:
        kind = target.kinds[name]
        mine = [d for d in wanted if d.key.kind == name]
        return list(_with_ledger(kind, kind.observe(snapshot, mine), ledger))

    # Together: while the server makes one list, another is decoded here.
    with ThreadPoolExecutor(_LISTS_AT_ONCE) as pool:
        return [item for found in pool.map(look, sorted(names)) for item in found]


def _with_ledger(kind: Kind, observed: Iterable[Observed], ledger: Ledger) -> Iterable[Observed]:
    if not kind.ledgered:
        yield from observed
        return
    left = {k: e for k, e in ledger.entries.items() if k.kind == kind.name}
    for item in observed:
        entry = left.pop(item.key, None)
        if entry:
            item = replace(item, mark=entry.mark, fields={**item.fields, **entry.hmacs})
        yield item
    for entry in left.values():
        yield Observed(entry.key, {}, entry.mark, absent=True)


def plan_round(target: Target, desired: Sequence[Desired], scope: Scope) -> Round:
    """Observe and plan. Writes nothing."""
    every_kind = scope.prune and scope.only is None
    observed, ledger = observe(target, desired, every_kind=every_kind, only=scope.only)
    wanted: list[Desired] = []
    problems: list[ObjectProblem] = []
    for item in desired:
        try:
            wanted.append(with_secrets(item, target.resolve, ledger))
        except PlatformError as error:
            problems.append(ObjectProblem(item.key, item.origin, replace(error.problem, where=item.where)))
    plan = make_plan(
        wanted,
        observed,
        owner=target.owner,
        traits={k.name: k.traits for k in target.kinds.values()},
        prune=scope.prune,
        adopt_from=scope.adopt_from,
        adopt_all=scope.adopt_all,
        stalled=problems,
    )
    if scope.only is not None:
        plan = replace(plan, changes=tuple(c for c in plan.changes if c.key in scope.only))
    return Round(_reviewed(target, plan, wanted), tuple(wanted), {o.key: o for o in observed}, ledger)


def _reviewed(target: Target, plan: Plan, wanted: Iterable[Desired]) -> Plan:
    """The plan with changes that are sure to be refused as problems."""
    problems: dict[Key, ObjectProblem] = {}
    for change in plan.changes:
        secrets = {path: target.resolve(ref) for path, ref in change.secrets.items()}
        problem = target.kinds[change.key.kind].review(change, secrets)
        if problem:
            problems[change.key] = ObjectProblem(change.key, change.origin, problem)
    if not problems:
        return plan
    places = {d.key: d.where for d in wanted if d.key in problems}
    for key, item in problems.items():
        problems[key] = replace(item, problem=replace(item.problem, where=places.get(key)))
    return replace(
        plan,
        changes=tuple(c for c in plan.changes if c.key not in problems),
        problems=(*plan.problems, *problems.values()),
    )


def with_secrets(item: Desired, resolve: Resolve, ledger: Ledger) -> Desired:
    """The object with the keyed HMAC of each of its secrets among its fields."""
    if not item.secrets:
        return item
    hmacs = {p: ledger.hmac(item.key, p, resolve(r)) for p, r in item.secrets.items()}
    return replace(item, fields={**item.fields, **hmacs})
