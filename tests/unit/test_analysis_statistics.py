"""Statistics against published examples and against what must always hold."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.client.analysis import statistics
from mlflow_platform.errors import BadInput

#: Student 1908, hours of sleep gained with two drugs by the same ten patients (R's data set `sleep`), with
#: R's t.test: Welch t = -1.8608, df = 17.776, p = 0.07939, interval -3.3655 to 0.2055; paired t = -4.0621,
#: p = 0.002833, interval -2.4599 to -0.7001. Here the second comes minus the first.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
VALUES = st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=12)


def test_the_sleep_of_student_with_welch() -> None:
    found = statistics.independent(FIRST, SECOND)
    assert found.test == "Welch's t-test"
    assert found.difference == pytest.approx(1.58)
    assert (found.low, found.high) == (pytest.approx(-0.2054832), pytest.approx(3.3654832))
    assert found.statistic == pytest.approx(1.8608, abs=5e-5)
    assert found.p_value == pytest.approx(0.07939, abs=5e-6)
    assert not found.significant()


def test_the_sleep_of_student_in_pairs() -> None:
    found = statistics.paired(FIRST, SECOND)
    assert found.p_value == pytest.approx(0.002833, abs=5e-7)
    assert (found.low, found.high) == (pytest.approx(0.7001142), pytest.approx(2.4598858))
    assert found.significant()
    ranks = statistics.paired(FIRST, SECOND, test="rank")
    assert ranks.test == "Wilcoxon signed-rank test"
    assert ranks.effect == pytest.approx(1.0)  # nobody slept less with the second


def test_the_lady_tasting_tea() -> None:
    """Fisher 1935: three of four cups told right each way; the two-sided p is 34/70."""
    found = statistics.proportions((1, 4), (3, 4))
    assert found.p_value == pytest.approx(34 / 70)
    assert found.difference == pytest.approx(0.5)


def test_what_changed_between_two_tries_of_the_same() -> None:
    """R's binom.test(8, 10) gives 0.109375: eight of ten that changed did so for the better."""
    first, second = [True] * 2 + [False] * 8 + [True] * 10, [False] * 2 + [True] * 8 + [True] * 10
    found = statistics.switches(first, second)
    assert (found.test, found.n) == ("McNemar's exact test", (20, 20))
    assert found.p_value == pytest.approx(0.109375)
    assert (found.difference, found.effect) == (pytest.approx(0.3), pytest.approx(4))
    assert statistics.switches([True], [True]).p_value == 1
    assert statistics.switches([], []).p_value is None


def test_newcombes_interval() -> None:
    """Newcombe 1998, table II, method 10: 56/70 against 48/80 gives 0.0524 to 0.3339."""
    found = statistics.proportions((48, 80), (56, 70))
    assert (found.low, found.high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))


def test_holms_example() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_only_raises_and_keeps_the_order(p_values: list[float]) -> None:
    found = statistics.holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, found, strict=True))
    ranked = [q for _, q in sorted(zip(p_values, found, strict=True))]
    assert ranked == sorted(ranked)


def test_a_summary_and_its_interval() -> None:
    found = statistics.summary([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert (found.n, found.mean) == (8, 5.0)
    assert found.deviation == pytest.approx(math.sqrt(32 / 7))
    assert (found.low, found.high) == (pytest.approx(3.2125, abs=5e-5), pytest.approx(6.7875, abs=5e-5))


def test_too_little_says_so_instead_of_inventing() -> None:
    assert statistics.summary([]) == statistics.Summary(0, None, None, None, None)
    assert statistics.summary([3.0, math.nan]) == statistics.Summary(1, 3.0, None, None, None, missing=1)
    for found in (statistics.independent([1.0], [2.0, 3.0]), statistics.paired([1.0], [2.0])):
        assert found.p_value is None
        assert "fewer than two" in found.note
    assert statistics.independent([1.0, 1.0], [1.0, 1.0]).note == "all values are equal"
    assert "neither group varies" in statistics.independent([1.0, 1.0], [2.0, 2.0]).note
    assert statistics.paired([1.0, 2.0], [2.0, 3.0]).note == "all pairs differ by the same"
    with pytest.raises(BadInput, match="as many values"):
        statistics.paired([1.0], [1.0, 2.0])


@given(VALUES, VALUES, st.sampled_from(["mean", "rank"]))
def test_exchanging_the_samples_exchanges_the_sign(
    a: list[float], b: list[float], test: statistics.Test
) -> None:
    one, other = statistics.independent(a, b, test=test), statistics.independent(b, a, test=test)
    assert one.note == other.note
    if one.p_value is not None and other.p_value is not None:
        assert one.p_value == pytest.approx(other.p_value, abs=1e-9)
        assert one.effect == pytest.approx(-(other.effect or 0.0), abs=1e-9)
        assert 0 <= one.p_value <= 1


def test_pairs_of_groups_are_corrected_for_their_number() -> None:
    groups = {"a": FIRST, "b": SECOND, "c": [v + 4 for v in SECOND]}
    found = statistics.pairwise(groups)
    alone = {pair: statistics.independent(groups[pair[0]], groups[pair[1]]).p_value for pair in found}
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all((found[p].p_value or 0) >= (alone[p] or 0) for p in found)
    assert found["a", "c"].p_value == pytest.approx(3 * (alone["a", "c"] or 0))


def test_a_trend() -> None:
    tau, p = statistics.trend([0, 0, 1, 1, 2, 2], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert (tau or 0) > 0.8
    assert (p or 1) < 0.05
    assert statistics.trend([1, 1], [0.1, 0.2]) == (None, None)
