"""The brake of one tracking server: who gives up too much is held back, and everybody else goes on."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from mlflow_platform.apply.execute import Result
from mlflow_platform.apply.rounds import Round
from mlflow_platform.operator.entries import ALLOW_DESTRUCTIVE
from mlflow_platform.plan.brakes import Brakes, Share, exceeding
from mlflow_platform.plan.engine import Plan
from mlflow_platform.plan.objects import Key

#: Losses of this many seconds count together.
_WINDOW = 600.0


@dataclass(frozen=True)
class Held:
    """What the brake lets pass of a plan, and what it holds back."""

    plan: Plan
    """What goes on."""
    losses: Mapping[Key, str] = field(default_factory=dict)
    """What does not, and why: of each, only what is about its own namespace."""
    origins: frozenset[str] = frozenset()
    """Where those are declared."""
    hash: str = ""
    """Releases it."""
    message: str = ""
    """All of it, for the TrackingServer."""


class Brake:
    """`server` is the name of the TrackingServer. Not for several threads at once."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._owned: dict[Key, str] = {}
        self._lost: deque[tuple[float, dict[Key, str]]] = deque()

    def look(self, found: Round) -> None:
        """Note whose the objects are, from a round that has seen them all."""
        self._owned = {
            o.key: namespace_of(o.mark.origin)
            for o in found.observed.values()
            if o.mark is not None and o.mark.owner == found.plan.owner and not o.soft_deleted
        }

    def hold(self, plan: Plan, brakes: Brakes, allowed: str | None) -> Held:
        """What of a plan may be carried out. `allowed` is the hash of what an administrator has released."""
        now = time.monotonic()
        while self._lost and self._lost[0][0] < now - _WINDOW:
            self._lost.popleft()
        if not plan.losses:
            return Held(plan)
        lost = {c.key: namespace_of(c.origin) for c in plan.losses}
        # An object counts once: however often it was tried to delete it, and whether or not a round has seen
        # since that it is gone.
        recent = {key: name for _, some in self._lost for key, name in some.items() if key not in lost}
        owned = {key: name for key, name in (self._owned | lost).items() if key not in recent}
        found = exceeding(Counter(lost.values()), Counter(owned.values()), Counter(recent.values()), brakes)
        losses = [c for c in plan.losses if namespace_of(c.origin) in found]
        hash_ = replace(plan, changes=tuple(losses)).hash
        if not losses or allowed == hash_:
            return Held(plan)
        remedy = (
            f"If that is what you mean: kubectl annotate trackingserver {self._server} --overwrite "
            f"{ALLOW_DESTRUCTIVE}={hash_}"
        )
        said = {name: f"{_text(name, share, brakes)}. {remedy}" for name, share in found.items()}
        why = {c.key: said[namespace_of(c.origin)] for c in losses}
        return Held(
            replace(plan, changes=tuple(c for c in plan.changes if c.key not in why)),
            why,
            frozenset(c.origin.split("#")[0] for c in losses),
            hash_,
            f"{'; '.join(_text(name, share, brakes) for name, share in found.items())}. {remedy}",
        )

    def note(self, results: Iterable[Result]) -> None:
        """What was carried out, or tried."""
        lost = {r.change.key: namespace_of(r.change.origin) for r in results if r.change.action.loses}
        if lost:
            self._lost.append((time.monotonic(), lost))


def namespace_of(origin: str) -> str:
    """Of `Kind/namespace/name`, as marks have it."""
    return origin.partition("/")[2].partition("/")[0]


def _text(namespace: str, share: Share, brakes: Brakes) -> str:
    return (
        f"the documents of the namespace {namespace} delete, replace or forget {share.lost} of "
        f"{share.owned} owned objects ({share.percent} %, the brake is at {brakes.limit(share.owned)}); "
        "that is held back, everything else goes on"
    )
