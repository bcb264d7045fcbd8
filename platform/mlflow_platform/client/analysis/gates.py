"""Targets that a run's metrics must meet before it may go further."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlflow_platform.client.analysis.tables import Table
from mlflow_platform.errors import BadInput

_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_TARGET = re.compile(r"\s*(>=|<=|>|<)\s*(\S+)\s*\Z")


@dataclass(frozen=True)
class Gate:
    """That a metric is above or below a bound: `operator` is one of >, >=, <, <=."""

    metric: str
    operator: str
    bound: float

    @property
    def target(self) -> str:
        return f"{self.operator} {self.bound:g}"

    def passed(self, value: float | None) -> bool:
        """Whether a value meets it; a missing one and NaN never do."""
        return value is not None and not math.isnan(value) and _COMPARE[self.operator](value, self.bound)


def gate(metric: str, target: object) -> Gate:
    """A target such as `> 0.80`. Raises `BadInput` for anything else."""
    found = _TARGET.match(target) if isinstance(target, str) else None
    try:
        bound = float(found[2]) if found else math.nan
    except ValueError:
        bound = math.nan
    if found is None or math.isnan(bound):
        raise BadInput(
            f"{target!r} is no target for {metric}",
            remedy='write a comparison with a number, such as "> 0.80" or "<= 2.5"',
        )
    return Gate(metric, found[1], bound)


def judged(gates: Sequence[Gate], metrics: Mapping[str, float]) -> Table:
    """A row a gate: the value, the target, and whether it is met."""
    rows = tuple(
        (g.metric, metrics.get(g.metric), g.target, "pass" if g.passed(metrics.get(g.metric)) else "FAIL")
        for g in gates
    )
    return Table(("metric", "value", "target", "result"), rows)


def met(gates: Sequence[Gate], metrics: Mapping[str, float]) -> bool:
    return all(g.passed(metrics.get(g.metric)) for g in gates)
