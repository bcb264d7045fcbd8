"""What an optimisation gained: pure, samples in, metrics out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow_platform.client.analysis import statistics
from mlflow_platform.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a program did on each example: success, and where measured its cost (in whatever unit costs are
    kept), latency (ms) and quality. Each is as long as `success`, or empty."""

    success: Sequence[bool]
    cost: Sequence[float] = ()
    latency_ms: Sequence[float] = ()
    quality: Sequence[float] = ()

    def __post_init__(self) -> None:
        if not self.success:
            raise BadInput("there are no samples")
        for name in ("cost", "latency_ms", "quality"):
            values = getattr(self, name)
            if values and len(values) != len(self.success):
                raise BadInput(f"{len(self.success)} samples have {len(values)} values of {name}")
            if not all(math.isfinite(v) for v in values):
                raise BadInput(f"a sample's {name} is not a finite number")

    def metrics(self) -> dict[str, float]:
        """`success_rate`, `avg_cost`, `avg_latency_ms`, `quality_score`: means, of what was measured."""
        named = {
            "success_rate": [float(s) for s in self.success],
            "avg_cost": self.cost,
            "avg_latency_ms": self.latency_ms,
            "quality_score": self.quality,
        }
        return {name: math.fsum(v) / len(v) for name, v in named.items() if v}


def improvement(baseline: dict[str, float], optimized: dict[str, float]) -> dict[str, float]:
    """What is better after than before, positive where it is, of the metrics that both have.

    `success_rate_improvement` and `quality_improvement` are after minus before, `cost_reduction` (in the unit
    of the costs) and `latency_reduction_ms` before minus after. `improvement_percentage` is what the success
    rate has gained in per cent of what it was; not given where that was 0.
    """
    pairs = {
        "success_rate_improvement": ("success_rate", 1),
        "cost_reduction": ("avg_cost", -1),
        "latency_reduction_ms": ("avg_latency_ms", -1),
        "quality_improvement": ("quality_score", 1),
    }
    gained = {
        name: sign * (optimized[of] - baseline[of])
        for name, (of, sign) in pairs.items()
        if of in baseline and of in optimized
    }
    if "success_rate_improvement" in gained and baseline["success_rate"]:
        gained["improvement_percentage"] = 100 * gained["success_rate_improvement"] / baseline["success_rate"]
    return gained


def significance(baseline: Samples, optimized: Samples, *, paired: bool) -> statistics.Comparison:
    """How likely a difference of success this large is where there is none.

    `paired`: both were measured on the same examples in the same order, so that McNemar's exact test applies
    (the binomial test on the examples that changed). Else Fisher's exact test. Both hold for few samples.
    Raises `BadInput` for pairs of different length.
    """
    if paired and len(baseline.success) != len(optimized.success):
        raise BadInput(
            f"{len(baseline.success)} samples cannot be paired with {len(optimized.success)}",
            remedy="pass paired=False",
        )
    if paired:
        return statistics.switches(baseline.success, optimized.success)
    before, after = ((sum(s.success), len(s.success)) for s in (baseline, optimized))
    return statistics.proportions(before, after)
