"""Runs side by side, and groups of runs with means, intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from mlflow_platform.client.analysis import statistics
from mlflow_platform.client.analysis.reading import SYSTEM_TAGS, Run
from mlflow_platform.client.analysis.tables import Cell, Table
from mlflow_platform.errors import BadInput


def side_by_side(
    runs: Sequence[Run],
    *,
    params: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    everything: bool = False,
    best: str | None = None,
    least: bool = False,
) -> Table:
    """A row a run, a column a param or metric: those named, else the ones that differ (or all of them).

    `best` names the metric by which the best run is marked and the rows are sorted.
    """
    chosen_params = _chosen([r.params for r in runs], params, everything)
    chosen_metrics = _chosen([r.metrics for r in runs], metrics, everything)
    if best and best not in chosen_metrics:
        chosen_metrics.append(best)
    rows: list[tuple[Cell, ...]] = []
    ordered = ranked(runs, best, least=least) if best else list(runs)
    winner = ordered[0].id if best and ordered and _value(ordered[0], best) is not None else None
    for run in ordered:
        cells: list[Cell] = [run.name + (" *" if run.id == winner else ""), run.id, run.status]
        cells += [run.params.get(k) for k in chosen_params]
        cells += [run.metrics.get(k) for k in chosen_metrics]
        rows.append(tuple(cells))
    notes = (f"* best by {best} ({'least' if least else 'largest'})",) if winner else ()
    return Table(("run", "run id", "status", *chosen_params, *chosen_metrics), tuple(rows), notes=notes)


def ranked(runs: Iterable[Run], metric: str, *, least: bool = False) -> list[Run]:
    """The best first; runs without a value, or with NaN, last. Equals stay in their order."""

    def place(run: Run) -> tuple[bool, float]:
        value = _value(run, metric)
        return value is None, 0.0 if value is None else value if least else -value

    return sorted(runs, key=place)


def grouped(runs: Iterable[Run], by: str, metric: str) -> dict[str, list[float]]:
    """The values of a metric by those of a param or tag; runs without either are left out."""
    found: dict[str, list[float]] = {}
    for run in runs:
        group, value = run.value(by), run.metrics.get(metric)
        if group is not None and value is not None:
            found.setdefault(str(group), []).append(value)
    return found


def summarised(
    groups: Mapping[str, Sequence[float]], *, by: str, metric: str, level: float = statistics.LEVEL
) -> Table:
    """n, mean, deviation and confidence interval of every group, as publications print them."""
    if not groups:
        raise BadInput(
            f"no run here has both {by!r} and the metric {metric!r}", remedy="correct the names or the filter"
        )
    percent = f"{100 * level:g} % CI"
    rows = []
    for name, values in groups.items():
        found = statistics.summary(values, level)
        rows.append((name, found.n, found.mean, found.deviation, found.low, found.high))
    missing = sum(statistics.summary(v).missing for v in groups.values())
    notes = (f"{missing} value(s) that are no finite number are left out.",) if missing else ()
    columns = (by, "n", f"mean {metric}", "deviation", f"{percent} from", f"{percent} to")
    return Table(columns, tuple(rows), notes=notes)


def contrasted(
    groups: Mapping[str, Sequence[float]],
    *,
    metric: str,
    test: statistics.Test = "mean",
    level: float = statistics.LEVEL,
) -> Table:
    """Every two groups: difference, interval, p-value, effect and the name of the test."""
    rows = []
    for (a, b), found in statistics.pairwise(groups, test=test, level=level).items():
        rows.append(
            (
                f"{b} - {a}",
                found.difference,
                found.low,
                found.high,
                found.p_value,
                found.effect,
                found.test,
                found.note,
            )
        )
    percent = f"{100 * level:g} % CI"
    columns = (
        f"difference of {metric}",
        "mean",
        f"{percent} from",
        f"{percent} to",
        "p",
        "effect",
        "test",
        "note",
    )
    return Table(columns, tuple(rows))


def _chosen(
    values: Sequence[Mapping[str, object]], named: Sequence[str] | None, everything: bool
) -> list[str]:
    keys = sorted({k for v in values for k in v})
    if named is not None:
        unknown = [n for n in named if n not in keys]
        if unknown:
            raise BadInput(
                f"none of these runs has {unknown[0]!r}", remedy=f"known: {', '.join(keys[:30]) or 'nothing'}"
            )
        return list(named)
    kept = [k for k in keys if not k.startswith(SYSTEM_TAGS)]
    return kept if everything or len(values) < 2 else [k for k in kept if len({v.get(k) for v in values}) > 1]


def _value(run: Run, metric: str) -> float | None:
    value = run.metrics.get(metric)
    return None if value is None or math.isnan(value) else value
