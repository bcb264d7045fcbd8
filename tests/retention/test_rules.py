"""Rules as a pure function: rows in, choices out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.model.retention_policy import (
    LoggedModelRules,
    ModelVersionRules,
    RunRules,
    Selector,
    Window,
)
from mlflow_platform.retention.rules import (
    Choice,
    Experiment,
    Held,
    LoggedModel,
    Run,
    Version,
    choose_logged_model,
    choose_run,
    choose_version,
    open_at,
    selects,
)

DAY = 86_400_000
NOW = 1000 * DAY


def run(age: float = 100, **more: Any) -> Run:
    at = int(NOW - age * DAY)
    values: dict[str, Any] = {
        "active": True,
        "status": "FINISHED",
        "start": at,
        "end": at,
        "deleted_at": None,
    }
    return Run("r", **{**values, **more})


def chosen(rules: dict[str, Any], one: Run) -> str | None:
    found = choose_run(RunRules.model_validate(rules), one, NOW)
    return f"{found.action} {found.rule}" if found else None


@pytest.mark.parametrize(
    ("rules", "one", "expected"),
    [
        ({"olderThan": "90d"}, run(90), "quarantine olderThan"),
        ({"olderThan": "90d"}, run(89.9), None),
        ({"olderThan": "90d"}, run(status="RUNNING"), None),
        ({"olderThan": "90d"}, run(status="SCHEDULED"), None),
        ({"olderThan": "90d"}, run(end=None), "quarantine olderThan"),
        ({"olderThan": "90d"}, run(start=None, end=None), None),
        ({"olderThan": "90d"}, run(end=NOW), None),
        (
            {"olderThan": "90d", "failedOlderThan": "7d"},
            run(8, status="FAILED"),
            "quarantine failedOlderThan",
        ),
        (
            {"olderThan": "90d", "failedOlderThan": "7d"},
            run(8, status="KILLED"),
            "quarantine failedOlderThan",
        ),
        ({"olderThan": "90d", "failedOlderThan": "7d"}, run(8), None),
        (
            {"failedOlderThan": "7d", "abandonedAfter": "30d"},
            run(31, status="RUNNING"),
            "quarantine failedOlderThan",
        ),
        ({"failedOlderThan": "7d", "abandonedAfter": "30d"}, run(29, status="RUNNING"), None),
        ({"keepLast": 2}, run(recent=3), "quarantine keepLast"),
        ({"keepLast": 2}, run(recent=2), None),
        ({"keepLast": 2, "failedOlderThan": "7d"}, run(1, status="FAILED", recent=3), None),
        ({"olderThan": "90d", "keepLast": 2}, run(89, recent=3), None),
        ({"olderThan": "90d", "keepLast": 2}, run(recent=2), None),
        ({"keepBest": {"metric": "m", "count": 1}}, run(best=1), None),
        ({"keepBest": {"metric": "m", "count": 1}}, run(best=2), "quarantine keepBest"),
        ({"keepBest": {"metric": "m", "count": 1}}, run(), "quarantine keepBest"),
        ({"keepLast": 1, "keepBest": {"metric": "m", "count": 1}}, run(recent=5, best=1), None),
        ({"softDeletedFor": "30d"}, run(active=False, deleted_at=NOW - 30 * DAY), "purge softDeletedFor"),
        ({"softDeletedFor": "30d"}, run(active=False, deleted_at=NOW - 29 * DAY), None),
        ({"softDeletedFor": "30d"}, run(active=False), None),
        ({"softDeletedFor": "30d"}, run(), None),
        ({"olderThan": "90d"}, run(active=False, deleted_at=5, held=Held(5, 5, True)), "purge olderThan"),
        ({"olderThan": "90d"}, run(active=False, deleted_at=5, held=Held(5, 5, False)), None),
        # The policy has become milder: what it no longer chooses is not purged either.
        ({"olderThan": "900d"}, run(active=False, deleted_at=5, held=Held(5, 5, True)), None),
        # Restored, and then deleted by somebody: their deletion counts, not ours.
        ({"olderThan": "90d"}, run(active=False, deleted_at=6, held=Held(5, 5, True)), None),
        # Restored: it is left alone.
        ({"olderThan": "90d"}, run(held=Held(5, 5, True)), None),
    ],
)
def test_runs(rules: dict[str, Any], one: Run, expected: str | None) -> None:
    assert chosen(rules, one) == expected


@given(
    age=st.floats(0, 500),
    status=st.sampled_from(["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]),
    recent=st.integers(1, 50) | st.none(),
    best=st.integers(1, 50) | st.none(),
    days=st.integers(1, 400),
    keep=st.integers(1, 40),
)
def test_more_rules_never_choose_more(
    age: float, status: str, recent: int | None, best: int | None, days: int, keep: int
) -> None:
    """Adding something to keep, or a longer age, takes runs out and never in."""
    one = run(age, status=status, recent=recent, best=best)
    short, long = {"olderThan": f"{days}d"}, {"olderThan": f"{days + 10}d"}
    kept = {**short, "keepLast": keep, "keepBest": {"metric": "m", "count": keep}}
    if chosen(short, one) is None:
        assert chosen(long, one) is None
        assert chosen(kept, one) is None
    if (recent is not None and recent <= keep) or (best is not None and best <= keep):
        assert chosen(kept, one) is None


def test_logged_models() -> None:
    rules = LoggedModelRules.model_validate({"olderThan": "90d", "softDeletedFor": "30d"})
    old = NOW - 100 * DAY

    def chosen_model(**more: Any) -> Choice | None:
        values: dict[str, Any] = {"active": True, "created": old, "changed": old}
        return choose_logged_model(rules, LoggedModel("m", **{**values, **more}), NOW)

    assert chosen_model() == Choice("quarantine", "olderThan")
    assert chosen_model(created=NOW) is None
    assert chosen_model(held=Held(0, old, True)) is None
    assert chosen_model(active=False) == Choice("purge", "softDeletedFor")
    assert chosen_model(active=False, changed=NOW) is None
    assert chosen_model(active=False, held=Held(0, old, True)) == Choice("purge", "olderThan", new=False)
    assert chosen_model(active=False, held=Held(0, old, False)) is None


def test_versions() -> None:
    rules = ModelVersionRules.model_validate({"keepLast": 2, "olderThan": "90d"})

    def chosen_version(**more: Any) -> Choice | None:
        values: dict[str, Any] = {"created": 0, "recent": 3, "stage": None, "aliased": False}
        return choose_version(rules, Version("m", 1, **{**values, **more}), NOW)

    assert chosen_version() == Choice("quarantine", "keepLast")
    assert chosen_version(stage="None") == Choice("quarantine", "keepLast")
    assert chosen_version(recent=2) is None
    assert chosen_version(created=NOW) is None
    assert chosen_version(aliased=True) is None
    assert chosen_version(stage="Production") is None
    assert chosen_version(held=Held(0, None, False)) is None
    assert chosen_version(held=Held(0, None, True)) == Choice("purge", "keepLast", new=False)
    assert chosen_version(held=Held(0, None, True, kept=True)) is None


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({}, True),
        ({"experiments": ["team/*"]}, True),
        ({"experiments": ["TEAM/*"]}, False),
        ({"experiments": ["other", "team/a[[]1]"]}, True),
        ({"experiments": ["team/a[1]"]}, True),  # the name itself, although a glob too
        ({"experiments": ["team/*"], "exclude": ["*[[]1]"]}, False),
        ({"workspaces": ["red"]}, True),
        ({"workspaces": ["blue"]}, False),
        ({"tags": {"tier": "dev"}}, True),
        ({"tags": {"tier": "dev", "other": "x"}}, False),
    ],
)
def test_selectors(selector: dict[str, Any], expected: bool) -> None:
    one = Experiment(7, "team/a[1]", "red", {"tier": "dev"}, None)
    assert selects(Selector.model_validate(selector), one) is expected


def test_windows() -> None:
    night = Window(start="22:00", end="05:30")
    assert [open_at(night, m) for m in (22 * 60, 23 * 60, 0, 5 * 60 + 29, 5 * 60 + 30, 12 * 60)] == [
        True, True, True, True, False, False,
    ]  # fmt: skip
    day = Window(start="08:00", end="09:00")
    assert [open_at(day, m) for m in (8 * 60 - 1, 8 * 60, 9 * 60)] == [False, True, False]
    assert open_at(None, 0)
