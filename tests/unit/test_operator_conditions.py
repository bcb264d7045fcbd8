"""Three conditions from one outcome, and no change where nothing changed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.model.crd import MAX_FAILURE, MAX_FAILURES
from mlflow_platform.operator.conditions import (
    IDLE,
    READY,
    STALLED,
    Members,
    Outcome,
    Reason,
    members_status,
    seen,
    status,
    was_ready,
)

EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def shown(found: dict[str, Any] | None) -> dict[str, tuple[str, str, str]]:
    assert found is not None
    return {c["type"]: (c["status"], c["reason"], c["message"]) for c in found["conditions"]}


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (Reason.SYNCED, ("True", "False", "False")),
        (Reason.RETRYING, ("False", "True", "False")),
        (Reason.WAITING, ("False", "True", "False")),
        (Reason.REJECTED, ("False", "False", "True")),
    ],
)
def test_what_an_outcome_means(reason: Reason, expected: tuple[str, str, str]) -> None:
    found = shown(status({}, 1, Outcome(reason, "why"), EARLY))
    assert tuple(found[t][0] for t in ("Ready", "Reconciling", "Stalled")) == expected
    assert found["Ready"][1:] == (reason, "why")
    for value, why, text in (found["Reconciling"], found["Stalled"]):
        assert (why, text) == ((reason, "why") if value == "True" else (IDLE, ""))


def test_every_reason_is_ready_stalled_or_worked_on() -> None:
    assert not READY & STALLED
    assert all(str(reason).isalpha() for reason in Reason)


@given(st.sampled_from(Reason), st.text(max_size=20), st.integers(1, 9))
def test_the_same_outcome_again_changes_nothing(reason: Reason, message: str, generation: int) -> None:
    first = status({}, generation, Outcome(reason, message), EARLY)
    assert first is not None
    assert seen(first, generation)
    assert was_ready(first) == (reason in READY)
    assert status(first, generation, Outcome(reason, message), LATE) is None
    assert status(first, generation + 1, Outcome(reason, message), LATE) is not None


def test_times_change_with_the_value_of_the_condition_only() -> None:
    first = status({}, 1, Outcome(Reason.RETRYING, "a"), EARLY)
    assert first is not None
    second = status(first, 1, Outcome(Reason.WAITING, "b"), LATE)
    assert second is not None
    assert {c["lastTransitionTime"] for c in second["conditions"]} == {EARLY}
    third = status(second, 1, Outcome(Reason.SYNCED), LATE)
    assert third is not None
    times = {c["type"]: c["lastTransitionTime"] for c in third["conditions"]}
    assert times == {"Ready": LATE, "Reconciling": LATE, "Stalled": EARLY}


def test_a_set_says_its_first_failures_and_what_others_wrote_is_kept() -> None:
    members = Members(30, 5, [(f"m{i:02}", "why") for i in range(25)])
    extra = members_status(members)
    assert (extra["members"], extra["ready"], len(extra["failures"])) == (30, 5, 20)
    found = status(
        {"version": "1", "stoppedPlan": "abc"}, 1, Outcome(Reason.SYNCED), EARLY, {"stoppedPlan": None}
    )
    assert found is not None
    assert "stoppedPlan" not in found
    assert found["version"] == "1"


def test_what_members_say_is_cut_to_what_the_definition_takes() -> None:
    """Else the API server would refuse the whole status, again and again."""
    found = members_status(Members(30, 0, [(f"m{i}", "x" * 100_000) for i in range(30)]))["failures"]
    assert [len(f["message"]) for f in found] == [MAX_FAILURE] * MAX_FAILURES
