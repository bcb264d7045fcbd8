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
    """The share is not looked at below this number of owned objects."""


def check(plan: Plan, brakes: Brakes, allowed: str | None = None) -> None:
    """Raise `BrakeStopped` unless the plan is harmless enough or `allowed` is its hash."""
    lost = len(plan.losses)
    if not lost or allowed == plan.hash:
        return
    remedy = f"if that is what you mean, repeat with --allow-destructive {plan.hash}"
    if plan.declared == 0:
        raise BrakeStopped(
            f"the configuration declares nothing, yet {plan.owned} object(s) on the server are owned by "
            f"{plan.owner}; nothing was written",
            remedy=f"check the path; {remedy}",
        )
    if plan.owned >= brakes.minimum_owned and lost * 100 > brakes.max_loss_percent * plan.owned:
        raise BrakeStopped(
            f"the plan deletes, replaces or forgets {lost} of {plan.owned} owned objects "
            f"({lost * 100 // plan.owned} %, the brake is at {brakes.max_loss_percent} %); "
            "nothing was written",
            remedy=remedy,
        )
    if allowed is not None:
        raise BrakeStopped(
            f"--allow-destructive {allowed} names another plan than this one ({plan.hash}); "
            "nothing was written",
            remedy="look at the plan again, then repeat with the hash it prints",
        )
