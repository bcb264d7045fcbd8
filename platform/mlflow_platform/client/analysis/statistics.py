"""Means with confidence intervals, differences with named tests; what is unknown is None, with a reason.

The tests are scipy's. NaN is a missing value: it is left out and counted. Levels are shares, such as 0.95.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from mlflow_platform.errors import BadInput

LEVEL = 0.95
Test = Literal["mean", "rank"]


@dataclass(frozen=True)
class Summary:
    """What n values say: their mean, sample deviation (n - 1) and the t interval of the mean.

    `deviation`, `low` and `high` are None for fewer than two values, `mean` for none.
    """

    n: int
    mean: float | None
    deviation: float | None
    low: float | None
    high: float | None
    missing: int = 0


@dataclass(frozen=True)
class Comparison:
    """A difference of two samples, second minus first, and how sure it is.

    `test` names the test; `p_value` is two-sided and None where the data allow none, for which `note` has
    the reason. `low` and `high` bound the difference of the means. `effect` is Hedges' g for a test of
    means, the rank-biserial correlation for a test of ranks.
    """

    test: str
    n: tuple[int, int]
    difference: float | None
    low: float | None
    high: float | None
    statistic: float | None
    p_value: float | None
    effect: float | None
    note: str = ""

    def significant(self, level: float = LEVEL) -> bool:
        return self.p_value is not None and self.p_value < 1 - level


def summary(values: Sequence[float], level: float = LEVEL) -> Summary:
    """The summary of a sample. Infinite values have no mean: they are counted as missing, too."""
    kept = _finite(values)
    missing = len(values) - len(kept)
    if not kept:
        return Summary(0, None, None, None, None, missing)
    mean = math.fsum(kept) / len(kept)
    if len(kept) < 2:
        return Summary(1, mean, None, None, None, missing)
    deviation = _deviation(kept, mean)
    half = _t(level, len(kept) - 1) * deviation / math.sqrt(len(kept))
    return Summary(len(kept), mean, deviation, mean - half, mean + half, missing)


def independent(
    first: Sequence[float], second: Sequence[float], *, test: Test = "mean", level: float = LEVEL
) -> Comparison:
    """Two samples of different things: Welch's t-test, or the Mann-Whitney U test with `test="rank"`."""
    from scipy import stats

    a, b = _finite(first), _finite(second)
    name = "Welch's t-test" if test == "mean" else "Mann-Whitney U test"
    if min(len(a), len(b)) < 2:
        return _unknown(name, a, b, "fewer than two values in a group")
    difference = math.fsum(b) / len(b) - math.fsum(a) / len(a)
    if len({*a, *b}) == 1:
        return _unknown(name, a, b, "all values are equal", difference)
    parts = [_deviation(x) ** 2 / len(x) for x in (a, b)]
    error = math.sqrt(sum(parts))
    interval: tuple[float | None, float | None] = (None, None)
    freedom = 0.0
    if error > 0:  # Welch-Satterthwaite
        freedom = error**4 / sum(p**2 / (len(x) - 1) for p, x in zip(parts, (a, b), strict=True))
        half = _t(level, freedom) * error
        interval = (difference - half, difference + half)
    if test == "rank":
        found = stats.mannwhitneyu(b, a, alternative="two-sided")
        statistic, p_value = float(found.statistic), float(found.pvalue)
        effect = 2 * statistic / (len(a) * len(b)) - 1
    elif error == 0:
        return _unknown(name, a, b, "neither group varies; a test of ranks may say more", difference)
    else:
        statistic, p_value = _student(difference / error, freedom)
        pooled = math.sqrt(sum((len(x) - 1) * _deviation(x) ** 2 for x in (a, b)) / (len(a) + len(b) - 2))
        effect = difference / pooled * _hedges(len(a) + len(b) - 2)
    return Comparison(name, (len(a), len(b)), difference, *interval, statistic, p_value, effect)


def paired(
    first: Sequence[float], second: Sequence[float], *, test: Test = "mean", level: float = LEVEL
) -> Comparison:
    """The same things measured twice, in the same order: the paired t-test, or Wilcoxon's signed-rank test.

    Pairs with a missing value are left out. Raises `BadInput` for samples of different lengths.
    """
    from scipy import stats

    if len(first) != len(second):
        raise BadInput(
            f"a paired comparison needs as many values on both sides, not {len(first)} and {len(second)}",
            remedy="pair the samples by what was measured, or compare them as independent",
        )
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if math.isfinite(a) and math.isfinite(b)]
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    name = "paired t-test" if test == "mean" else "Wilcoxon signed-rank test"
    if len(pairs) < 2:
        return _unknown(name, a, b, "fewer than two pairs")
    differences = [y - x for x, y in pairs]
    whole = summary(differences, level)
    if not any(differences):
        return _unknown(name, a, b, "all pairs are equal", 0.0)
    if test == "rank":
        found = stats.wilcoxon(differences)
        statistic, p_value = float(found.statistic), float(found.pvalue)
        ranks = stats.rankdata([abs(d) for d in differences if d])
        signed = sum(r if d > 0 else -r for r, d in zip(ranks, filter(None, differences), strict=True))
        effect = float(signed / ranks.sum())
    elif not whole.deviation:
        return _unknown(name, a, b, "all pairs differ by the same", whole.mean)
    else:
        ratio = (whole.mean or 0.0) / whole.deviation
        statistic, p_value = _student(ratio * math.sqrt(len(pairs)), len(pairs) - 1)
        effect = ratio * _hedges(len(pairs) - 1)
    return Comparison(name, (len(a), len(b)), whole.mean, whole.low, whole.high, statistic, p_value, effect)


def proportions(first: tuple[int, int], second: tuple[int, int], level: float = LEVEL) -> Comparison:
    """Two shares, each as (successes, trials): Fisher's exact test, Newcombe's interval of the difference.

    `effect` is the odds ratio, None where a cell that it divides by is empty.
    """
    from scipy import stats

    for hits, trials in (first, second):
        if not 0 <= hits <= trials:
            raise BadInput(f"{hits} successes of {trials} trials cannot be", remedy="correct the counts")
    (a, n), (b, m) = first, second
    if not n or not m:
        return _unknown("Fisher's exact test", range(n), range(m), "a group has no trials")
    found = stats.fisher_exact([[b, m - b], [a, n - a]])
    p, q = a / n, b / m
    (low_p, high_p), (low_q, high_q) = _wilson(a, n, level), _wilson(b, m, level)
    ratio = float(found.statistic)
    return Comparison(
        "Fisher's exact test",
        (n, m),
        q - p,
        q - p - math.hypot(q - low_q, high_p - p),
        q - p + math.hypot(high_q - q, p - low_p),
        None,
        float(found.pvalue),
        ratio if math.isfinite(ratio) else None,
    )


def switches(first: Sequence[bool], second: Sequence[bool]) -> Comparison:
    """Successes of the same things tried twice, in the same order: McNemar's exact test, which is the
    binomial test of those that changed.

    The difference is that of the shares, without an interval; `effect` is the odds of a change to success
    against one to failure, None where none went to failure. Where nothing changed the p-value is 1.
    """
    from scipy import stats

    name = "McNemar's exact test"
    if not first:
        return _unknown(name, first, second, "there are no pairs")
    changed = [bool(after) for before, after in zip(first, second, strict=True) if before != after]
    gained, lost = sum(changed), len(changed) - sum(changed)
    p_value = float(stats.binomtest(gained, len(changed), 0.5).pvalue) if changed else 1.0
    difference = (gained - lost) / len(first)
    odds = gained / lost if lost else None
    return Comparison(name, (len(first), len(second)), difference, None, None, None, p_value, odds)


def pairwise(
    groups: Mapping[str, Sequence[float]], *, test: Test = "mean", level: float = LEVEL
) -> dict[tuple[str, str], Comparison]:
    """Every two groups, with p-values corrected for their number by Holm's method."""
    found = {
        (a, b): independent(groups[a], groups[b], test=test, level=level) for a, b in combinations(groups, 2)
    }
    known = {pair: c.p_value for pair, c in found.items() if c.p_value is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    return {
        pair: Comparison(
            f"{c.test}, Holm-corrected" if len(found) > 1 else c.test,
            c.n,
            c.difference,
            c.low,
            c.high,
            c.statistic,
            adjusted.get(pair),
            c.effect,
            c.note,
        )
        for pair, c in found.items()
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for making several tests (Holm 1979), in the order given."""
    ranked = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(ranked):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def trend(places: Sequence[float], values: Sequence[float]) -> tuple[float | None, float | None]:
    """Kendall's tau-b of values along places and its p-value; None where there is nothing to rank."""
    from scipy import stats

    kept = [(x, y) for x, y in zip(places, values, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if len({x for x, _ in kept}) < 2 or len({y for _, y in kept}) < 2:
        return None, None
    found = stats.kendalltau([x for x, _ in kept], [y for _, y in kept])
    return float(found.statistic), float(found.pvalue)


def _finite(values: Sequence[float]) -> list[float]:
    return [float(v) for v in values if math.isfinite(v)]


def _deviation(values: Sequence[float], mean: float | None = None) -> float:
    middle = math.fsum(values) / len(values) if mean is None else mean
    return math.sqrt(math.fsum((v - middle) ** 2 for v in values) / (len(values) - 1))


def _hedges(freedom: float) -> float:
    """The correction of Cohen's d for small samples (Hedges 1981), by its usual approximation."""
    return 1 - 3 / (4 * freedom - 1)


def _student(t: float, freedom: float) -> tuple[float, float]:
    """The statistic and its two-sided p-value; scipy's own tests warn of samples that hardly vary."""
    from scipy import stats

    return t, 2 * float(stats.t.sf(abs(t), freedom))


def _t(level: float, freedom: float) -> float:
    from scipy import stats

    if not 0 < level < 1:
        raise BadInput(
            f"{level} is no level of confidence", remedy="give a share between 0 and 1, such as 0.95"
        )
    return float(stats.t.ppf((1 + level) / 2, freedom))


def _wilson(hits: int, trials: int, level: float) -> tuple[float, float]:
    from scipy import stats

    found = stats.binomtest(hits, trials).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def _unknown(
    test: str, a: Sequence[float], b: Sequence[float], note: str, difference: float | None = None
) -> Comparison:
    return Comparison(test, (len(a), len(b)), difference, None, None, None, None, None, note)


__all__ = [
    "LEVEL",
    "Comparison",
    "Summary",
    "holm",
    "independent",
    "paired",
    "pairwise",
    "proportions",
    "summary",
    "switches",
    "trend",
]
