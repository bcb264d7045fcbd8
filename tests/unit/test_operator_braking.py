"""What the brake of a tracking server counts, over the plans of ten minutes."""

from __future__ import annotations

from mlflow_platform.apply.execute import Result
from mlflow_platform.apply.ledger import Ledger
from mlflow_platform.apply.rounds import Round
from mlflow_platform.errors import Rejected
from mlflow_platform.operator.braking import Brake, Held
from mlflow_platform.plan.brakes import Brakes
from mlflow_platform.plan.engine import Plan
from mlflow_platform.plan.objects import Action, Change, Key, Mark, Observed

OWNER = "k8s:x"


def origin(name: str) -> str:
    return f"Experiment/team/{name}"


def brake(count: int) -> Brake:
    """That of a server with so many objects, e0 and so on."""
    found = {}
    for name in (f"e{i}" for i in range(count)):
        key = Key("Experiment", "default", name)
        found[key] = Observed(key, {}, Mark(OWNER, origin(name), "Delete", frozenset()))
    made = Brake("default")
    made.look(Round(Plan(OWNER), (), found, Ledger(None, "")))
    return made


def plan(*names: str) -> Plan:
    deletes = [Change(Action.DELETE, Key("Experiment", "default", n), origin(n), "") for n in names]
    return Plan(OWNER, tuple(deletes))


def hold(one: Brake, *names: str) -> Held:
    return one.hold(plan(*names), Brakes(), None)


def test_one_that_cannot_be_deleted_counts_once_however_often_it_is_tried() -> None:
    one = brake(20)
    for _ in range(20):
        assert not hold(one, "e0").losses
        one.note([Result(c, Rejected("not now")) for c in plan("e0").changes])
    # It counts beside others, since what was tried may have been done.
    assert not hold(one, *(f"e{i}" for i in range(1, 6))).losses
    assert hold(one, *(f"e{i}" for i in range(1, 7))).losses


def test_what_is_gone_is_not_counted_as_still_there() -> None:
    one = brake(100)
    for i in range(30):
        assert not hold(one, f"e{i}").losses
        one.note([Result(c) for c in plan(f"e{i}").changes])
    held = hold(one, "e30")
    assert "31 of 100 owned objects (31 %" in held.message
    assert held.plan.changes == ()
