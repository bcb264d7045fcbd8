"""What a plan may not do without being told twice."""

from __future__ import annotations

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


def check(plan: Plan, brakes: Brakes, allowed: str | None = None, *, recent: int = 0) -> None:
    """Raise `BrakeStopped` unless the plan is harmless enough or `allowed` is its hash.

    `recent`: objects that plans shortly before this one gave up, which count as if this one did: many small
    plans are stopped where a large one would be.
    """
    lost, owned = len(plan.losses), plan.owned
    if not lost or allowed == plan.hash:
        return
    lost, owned = lost + recent, owned + recent
    remedy = f"if that is what you mean, repeat with --allow-destructive {plan.hash}"
    if plan.declared == 0:
        raise BrakeStopped(
            f"the configuration declares nothing, yet {plan.owned} object(s) on the server are owned by "
            f"{plan.owner}; nothing was written",
            plan_hash=plan.hash,
            remedy=f"check the path; {remedy}",
        )
    if brakes.too_much(lost, owned):
        few = owned < brakes.minimum_owned
        limit = f"half of fewer than {brakes.minimum_owned}" if few else f"{brakes.max_loss_percent} %"
        raise BrakeStopped(
            f"the plan deletes, replaces or forgets {lost} of {owned} owned objects "
            f"({lost * 100 // max(owned, 1)} %, the brake is at {limit}); "
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
