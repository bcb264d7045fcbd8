"""When a request may be sent and for how long it is repeated; the clock is a number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.adapters.retry import Budget, Pace, backoff


@given(st.integers(1, 60))
def test_backoff_is_full_jitter_below_a_bound(attempt: int) -> None:
    assert 0 <= backoff(attempt) <= min(10.0, 0.1 * 2**attempt)


def test_no_rate_means_no_wait() -> None:
    pace = Pace()
    assert [pace.reserve(1.0) for _ in range(1000)] == [0.0] * 1000


def test_a_rate_spaces_requests() -> None:
    pace = Pace(per_second=10)
    assert [round(pace.reserve(5.0), 3) for _ in range(4)] == [0.0, 0.1, 0.2, 0.3]
    assert pace.reserve(9.0) == 0.0, "time that nobody used is not saved up"
    assert round(pace.reserve(9.0), 3) == 0.1


def test_a_pause_holds_everybody() -> None:
    for pace in (Pace(), Pace(per_second=100)):
        pace.pause(12.0)
        assert pace.reserve(10.0) == 2.0
        assert pace.reserve(11.0) >= 1.0
        pace.pause(3.0)
        assert pace.reserve(11.0) >= 1.0, "a shorter pause does not end a longer one"
        assert pace.reserve(13.0) == 0.0


def test_a_call_has_its_own_budget() -> None:
    budget = Budget(60.0)
    assert budget.until(100.0) == 160.0
    budget.failed(110.0)
    budget.succeeded()
    assert budget.until(120.0) == 180.0


def test_calls_share_the_budget_while_none_succeeds() -> None:
    budget = Budget(60.0, rest=5.0)
    budget.failed(100.0)
    assert budget.until(130.0) == 160.0
    assert not budget.spent(159.0)
    budget.failed(159.0)
    assert budget.spent(161.0), "spent, and tried two seconds ago"
    assert not budget.spent(164.5), "one may try after a rest"
    assert budget.spent(164.6), "and only one"
    assert not budget.spent(170.0)
    budget.succeeded()
    assert not budget.spent(170.1)
    assert budget.until(171.0) == 231.0
