"""Progress over the ordered stages of a curriculum, and how it compares across ontologies."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from mlflow_platform.client.analysis import comparison, statistics
from mlflow_platform.client.analysis.reading import Run
from mlflow_platform.client.analysis.tables import Cell, Table
from mlflow_platform.errors import BadInput


def stages(runs: Iterable[Run], by: str, metric: str, order: Sequence[str] = ()) -> dict[str, list[float]]:
    """The metric's values by stage, in the order given, else by number or name. Raises `BadInput`."""
    found = comparison.grouped(runs, by, metric)
    unknown = [s for s in order if s not in found]
    if unknown or not found:
        raise BadInput(
            f"no run has {by} = {unknown[0]!r} and the metric {metric!r}"
            if unknown
            else f"no run here has both {by!r} and the metric {metric!r}",
            remedy=f"stages here: {', '.join(sorted(found))}" if found else "correct the names or the filter",
        )
    return {name: found[name] for name in (order or sorted(found, key=_place))}


def progress(
    groups: Mapping[str, Sequence[float]],
    *,
    by: str,
    metric: str,
    test: statistics.Test = "mean",
    level: float = statistics.LEVEL,
) -> Table:
    """A row a stage: n, mean, deviation, interval, and the change from the stage before with its p-value.

    The changes' p-values are Holm-corrected for their number. A note has Kendall's tau over all values.
    """
    names = list(groups)
    changes = [
        statistics.independent(groups[a], groups[b], test=test, level=level)
        for a, b in itertools.pairwise(names)
    ]
    known = [c.p_value for c in changes if c.p_value is not None]
    corrected = iter(statistics.holm(known))
    p_values = [next(corrected) if c.p_value is not None else None for c in changes]
    rows: list[tuple[Cell, ...]] = []
    for place, name in enumerate(names):
        found = statistics.summary(groups[name], level)
        change, p = (changes[place - 1].difference, p_values[place - 1]) if place else (None, None)
        rows.append((name, found.n, found.mean, found.deviation, found.low, found.high, change, p))
    places = [float(i) for i, name in enumerate(names) for _ in groups[name]]
    tau, p_trend = statistics.trend(places, [v for name in names for v in groups[name]])
    trend = "" if tau is None else f"Trend over the stages: Kendall's tau-b {tau:.3f}, p {p_trend:.3g}. "
    percent = f"{100 * level:g} % CI"
    columns = (
        by,
        "n",
        f"mean {metric}",
        "deviation",
        f"{percent} from",
        f"{percent} to",
        "change",
        "p of the change",
    )
    name = changes[0].test if changes else ""
    corrected_by = ", Holm-corrected" if len(known) > 1 else ""
    return Table(columns, tuple(rows), notes=(f"{trend}Changes: {name}{corrected_by}.",) if name else ())


def across(
    runs: Iterable[Run], *, ontology: str, stage: str, metric: str, order: Sequence[str] = ()
) -> Table:
    """A row an ontology, a column a stage: means of the metric, and what the last gained on the first."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        name = run.value(ontology)
        if name is not None:
            found.setdefault(str(name), []).append(run)
    columns = list(order or stages([r for own in found.values() for r in own], stage, metric))
    rows: list[tuple[Cell, ...]] = []
    for name in sorted(found):
        groups = comparison.grouped(found[name], stage, metric)
        means = [statistics.summary(groups.get(s, ())).mean for s in columns]
        first, last = means[0], means[-1]
        rows.append((name, *means, None if first is None or last is None else last - first))
    return Table((ontology, *columns, "gain"), tuple(rows), notes=(f"Means of {metric}.",))


def _place(name: str) -> tuple[bool, float, str]:
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name
