"""Whether a memory helps: what is retrieved, what carries over to other domains, which strategy is better."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlflow_platform.client.analysis import comparison, statistics
from mlflow_platform.client.analysis.reading import Run
from mlflow_platform.client.analysis.tables import Cell, Table
from mlflow_platform.errors import BadInput


@dataclass(frozen=True)
class Effectiveness:
    """Of one query, or the means of several: all between 0 and 1.

    `recall` and `ndcg` are None where nothing is relevant, and such queries do not count in their means.
    """

    precision: float
    recall: float | None
    reciprocal_rank: float
    ndcg: float | None


def retrieval(retrieved: Sequence[str], relevant: Collection[str], k: int) -> Effectiveness:
    """How good the first `k` retrieved memories are; an id that comes twice counts once, at its first place.

    Precision divides by `k`, also where fewer came. NDCG has binary gains and the discount log2(rank + 1).
    """
    if k < 1:
        raise BadInput(
            f"k must be at least 1, not {k}", remedy="give the number of memories that are looked at"
        )
    top = list(dict.fromkeys(retrieved))[:k]
    wanted = set(relevant)
    hits = [rank for rank, name in enumerate(top, 1) if name in wanted]
    ideal = math.fsum(1 / math.log2(rank + 1) for rank in range(1, min(len(wanted), k) + 1))
    gained = math.fsum(1 / math.log2(rank + 1) for rank in hits)
    return Effectiveness(
        len(hits) / k,
        len(hits) / len(wanted) if wanted else None,
        1 / hits[0] if hits else 0.0,
        gained / ideal if wanted else None,
    )


def effectiveness(queries: Iterable[tuple[Sequence[str], Collection[str]]], k: int) -> Effectiveness:
    """Means over queries, each what was retrieved and what is relevant. Raises `BadInput` for none."""
    found = [retrieval(retrieved, relevant, k) for retrieved, relevant in queries]
    if not found:
        raise BadInput("there are no queries to evaluate", remedy="give at least one")
    return Effectiveness(
        math.fsum(f.precision for f in found) / len(found),
        _mean([f.recall for f in found]),
        math.fsum(f.reciprocal_rank for f in found) / len(found),
        _mean([f.ndcg for f in found]),
    )


def transfer(
    runs: Iterable[Run],
    *,
    source: str,
    target: str,
    metric: str,
    none: str = "none",
    level: float = statistics.LEVEL,
) -> Table:
    """What memories of one domain do in another: a row a pair of domains, against runs without a memory.

    `source` names the param or tag with the memory's domain (`none`: no memory), `target` the run's own.
    P-values are Holm-corrected over all rows. Raises `BadInput` where no domain has runs of both kinds.
    """
    cells: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        of, to, value = run.value(source), run.value(target), run.metrics.get(metric)
        if of is not None and to is not None and value is not None:
            cells.setdefault((str(of), str(to)), []).append(value)
    pairs = sorted(p for p in cells if p[0] != none and (none, p[1]) in cells)
    if not pairs:
        raise BadInput(
            f"no {target} has runs with {source} = {none!r} and with another one, and the metric {metric!r}",
            remedy="log some runs without a memory, or name the value that says so",
        )
    found = [statistics.independent(cells[none, to], cells[of, to], level=level) for of, to in pairs]
    known = iter(statistics.holm([f.p_value for f in found if f.p_value is not None]))
    rows: list[tuple[Cell, ...]] = []
    for (of, to), one in zip(pairs, found, strict=True):
        p = None if one.p_value is None else next(known)
        kind = "within" if of == to else "across"
        rows.append((of, to, kind, *reversed(one.n), one.difference, one.low, one.high, p, one.note))
    percent = f"{100 * level:g} % CI"
    columns = (
        source,
        target,
        "kind",
        "n",
        "n without",
        f"gain in {metric}",
        f"{percent} from",
        f"{percent} to",
        "p",
        "note",
    )
    return Table(columns, tuple(rows), notes=(f"{found[0].test}, Holm-corrected.",))


def strategies(
    runs: Iterable[Run],
    *,
    by: str,
    first: str,
    second: str,
    metric: str,
    pair: str | None = None,
    test: statistics.Test = "mean",
    level: float = statistics.LEVEL,
) -> statistics.Comparison:
    """Two memory strategies against each other, second minus first.

    With `pair`, the param or tag that says which question a run answered, the same questions are compared
    (means where a strategy answered one several times); else the runs are taken as independent.
    """
    kept = list(runs)
    groups = comparison.grouped(kept, by, metric)
    for name in (first, second):
        if name not in groups:
            raise BadInput(
                f"no run has {by} = {name!r} and the metric {metric!r}",
                remedy=f"known here: {', '.join(sorted(groups)) or 'none'}",
            )
    if pair is None:
        return statistics.independent(groups[first], groups[second], test=test, level=level)
    sides: list[Mapping[str, Sequence[float]]] = [
        comparison.grouped([r for r in kept if str(r.value(by)) == name], pair, metric)
        for name in (first, second)
    ]
    questions = sorted(set(sides[0]) & set(sides[1]))
    if not questions:
        raise BadInput(
            f"the runs of {first} and {second} have no {pair} in common",
            remedy="leave the pairing out, or correct it",
        )
    values = [[math.fsum(side[q]) / len(side[q]) for q in questions] for side in sides]
    return statistics.paired(*values, test=test, level=level)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return math.fsum(known) / len(known) if known else None
