"""What a plan may not do without being told twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow_platform.errors import BrakeStopped
from mlflow_platform.plan.engine import Plan


@dataclass(frozen=True, slots=True)
class Brakes:
    """Limits on what one plan may give up (delete, replace, forget) of what is owned."""

    max_loss_percent: int = 30
    """Largest share of the owned objects, in per cent."""
    minimum_owned: int = 10
    """Below this number of owned objects, giving one up is a share of its own: there only half or more of
    them, and at least two, is too much."""

    def too_much(self, lost: int, owned: int) -> bool:
        """Whether giving up `lost` of `owned` objects is too much for one plan."""
        if owned < self.minimum_owned:
            return lost >= 2 and 2 * lost >= owned
        return lost * 100 > self.max_loss_percent * owned

    def limit(self, owned: int) -> str:
        """What `too_much` goes by, in words."""
        few = owned < self.minimum_owned
        return f"half of fewer than {self.minimum_owned}" if few else f"{self.max_loss_percent} %"


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many objects."""

    lost: int
    owned: int

    @property
    def percent(self) -> int:
        return self.lost * 100 // max(self.owned, 1)


def exceeding(
    lost: Mapping[str, int], owned: Mapping[str, int], recent: Mapping[str, int], brakes: Brakes
) -> dict[str, Share]:
    """Whose losses are too much, each with what they give up of what is theirs; nobody where the whole is not
    too much.

    `lost` is what a plan gives up, `owned` what is on the server, `recent` what plans shortly before gave up,
    each by whose it is. Where the whole is too much and nobody's own share, all who lose something exceed.
    """

    def share(*names: str) -> Share:
        before = sum(recent.get(n, 0) for n in names)
        now, left = (sum(by.get(n, 0) for n in names) for by in (lost, owned))
        return Share(now + before, left + before)

    def too_much(*names: str) -> bool:
        found = share(*names)
        return brakes.too_much(found.lost, found.owned)

    losing, everyone = [n for n in lost if lost[n]], {*lost, *owned, *recent}
    if not losing or not too_much(*everyone):
        return {}
    found = {n for n in losing if too_much(n)}
    if not found or too_much(*(everyone - found)):
        found = set(losing)
    return {name: share(name) for name in sorted(found)}


def check(plan: Plan, brakes: Brakes, allowed: str | None = None) -> None:
    """Raise `BrakeStopped` unless the plan is harmless enough or `allowed` is its hash."""
    lost, owned = len(plan.losses), plan.owned
    if not lost or allowed == plan.hash:
        return
    remedy = f"if that is what you mean, repeat with --allow-destructive {plan.hash}"
    if plan.declared == 0:
        raise BrakeStopped(
            f"the configuration declares nothing, yet {plan.owned} object(s) on the server are owned by "
            f"{plan.owner}; nothing was written",
            plan_hash=plan.hash,
            remedy=f"check the path; {remedy}",
        )
    if brakes.too_much(lost, owned):
        raise BrakeStopped(
            f"the plan deletes, replaces or forgets {lost} of {owned} owned objects "
            f"({lost * 100 // max(owned, 1)} %, the brake is at {brakes.limit(owned)}); "
            "nothing was written",
            plan_hash=plan.hash,
            remedy=remedy,
        )
    if allowed is not None:
        raise BrakeStopped(
            f"--allow-destructive {allowed} names another plan than this one ({plan.hash}); "
            "nothing was written",
            plan_hash=plan.hash,
            remedy="look at the plan again, then repeat with the hash it prints",
        )
