"""How retention makes way for the server's users."""

from __future__ import annotations

import random
import threading

import pytest

from mlflow_platform.errors import BadInput, Transient
from mlflow_platform.model.retention_policy import RetentionPolicy
from mlflow_platform.retention import pace
from mlflow_platform.retention.pace import Pace, paced


def nothing() -> None:
    pass


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_EVERY", 0.0)
    monkeypatch.setattr(pace, "_SHARE", 1000.0)


def test_one_slow_answer_in_a_hundred_is_in_balance() -> None:
    """Rarer ones let it go at full speed; more of them slow it down, without end."""
    chance = random.Random(1)

    def settled(share: float) -> float:
        one = Pace(nothing, 2)
        one.allowed = 0.1
        for _ in range(20_000):
            one.heed(0.2 if chance.random() < share else 0.05)
        return one.pause

    assert settled(0.001) < pace._SHORTEST
    assert settled(0.05) > 1
    assert settled(1) == pace._LONGEST


def test_it_begins_carefully_and_heeds_each_answer() -> None:
    one = Pace(nothing, 3)
    one.allowed = 0.1
    assert one.wait(), "nobody knows yet what the server bears"
    before = one.pause
    one.heed(0.11)
    assert one.pause == 2 * before
    one.heed(None)
    assert one.pause == 4 * before
    for _ in range(198):
        one.heed(0.09)
    assert one.pause == pytest.approx(before)
    for _ in range(1000):
        one.heed(0.09)
    assert not one.wait()


def test_the_server_is_asked_until_it_ends() -> None:
    asked = threading.Event()
    count = 0

    def ask() -> None:
        nonlocal count
        count += 1
        if count > pace._SAMPLES:
            asked.set()
            raise OSError

    with Pace(ask, 2) as one:
        assert one.allowed > 0
        assert asked.wait(30)
        while one.pause < pace._LONGEST:
            pass
    assert not one._thread.is_alive()


def test_a_server_that_is_not_there_is_told() -> None:
    def ask() -> None:
        raise OSError

    with pytest.raises(Transient, match="does not answer"), Pace(ask, 2):
        pass


def test_who_wants_it_must_name_the_server() -> None:
    policy = RetentionPolicy.model_validate(
        {
            "kind": "RetentionPolicy",
            "metadata": {"name": "p"},
            "spec": {"rules": {"runs": {"olderThan": "1d"}}, "maxP99Factor": 2},
        }
    )
    with pytest.raises(BadInput, match="no tracking server is given"), paced([policy], None):
        pass
    with paced([policy], nothing) as wait:
        assert wait()
