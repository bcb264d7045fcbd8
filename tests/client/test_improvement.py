"""What is computed of runs: names, gains and their significance."""

from __future__ import annotations

import math
import pickle
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_platform.client import pickles
from mlflow_platform.client.improvement import Samples, improvement, significance
from mlflow_platform.client.names import run_name
from mlflow_platform.errors import BadInput, Rejected


@given(st.text(min_size=1, max_size=300), st.text(max_size=20))
def test_a_name_is_one_of_mlflows_whatever_its_fields_are(kind: str, number: str) -> None:
    name = run_name("{type}-{id}-{timestamp}", {"type": kind, "id": number})
    assert len(name) <= 250
    assert not set(name) & set("/\\ \t\n'\"{}")


def test_a_pattern_that_asks_for_what_is_not_there_is_refused() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    assert run_name("{type}@{timestamp}", {"type": "a b"}, now=now) == "a-b@20260102T030405.000006Z"
    with pytest.raises(BadInput, match="asks for nobody"):
        run_name("{nobody}", {"type": "x"})
    with pytest.raises(BadInput, match="no pattern"):
        run_name("{type", {"type": "x"})


@settings(deadline=None)  # the first example imports scipy
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_nothing_gained_is_nothing_and_not_significant(success: list[bool]) -> None:
    same = Samples(success=success, cost=[1.0] * len(success))
    gained = improvement(same.metrics(), same.metrics())
    assert all(v == 0 for v in gained.values())
    assert ("improvement_percentage" in gained) == any(success)
    assert significance(same, same, paired=True).p_value == 1
    assert significance(same, same, paired=False).p_value == pytest.approx(1)


@settings(deadline=None)  # the first example imports scipy
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_significance_does_not_depend_on_which_is_called_the_baseline(pairs: list[tuple[bool, bool]]) -> None:
    before, after = (Samples(success=list(column)) for column in zip(*pairs, strict=True))
    for paired in (True, False):
        there, back = (significance(*both, paired=paired) for both in ((before, after), (after, before)))
        assert there.p_value == pytest.approx(back.p_value)
        assert 0 < (there.p_value or 0) <= 1


def test_known_values_of_the_tests() -> None:
    # Fisher's tea: 3 of 4 against 1 of 4 is p = 34/70, as in The Design of Experiments (1935).
    tea = significance(
        Samples(success=[True] * 3 + [False]), Samples(success=[True] + [False] * 3), paired=False
    )
    assert (tea.test, tea.p_value) == ("Fisher's exact test", pytest.approx(34 / 70))
    # Six changed, all for the better: 2 * 0.5 ** 6.
    better = significance(Samples(success=[False] * 6), Samples(success=[True] * 6), paired=True)
    assert (better.test, better.p_value) == ("McNemar's exact test", pytest.approx(2 * 0.5**6))


def test_samples_that_are_no_samples_are_refused() -> None:
    with pytest.raises(BadInput, match="no samples"):
        Samples(success=[])
    with pytest.raises(BadInput, match="2 samples have 1 values of cost"):
        Samples(success=[True, False], cost=[1.0])
    with pytest.raises(BadInput, match="not a finite number"):
        Samples(success=[True], quality=[math.nan])
    with pytest.raises(BadInput, match="cannot be paired"):
        significance(Samples(success=[True]), Samples(success=[True, False]), paired=True)


def test_a_pickle_without_its_digest_is_not_opened(tmp_path: Path) -> None:
    for name in ("../up", "", ".hidden", "a/b"):
        with pytest.raises(BadInput, match="not a model's name"):
            pickles.save([1], name, {}, tmp_path)
    paths = pickles.save([1], "m", {"score": math.inf}, tmp_path)
    model, about = pickles.load(*paths)
    assert (model, about["score"]) == ([1], "Infinity")
    paths[1].write_text('{"score": 1}')
    with pytest.raises(Rejected, match="has no digest"):
        pickles.load(*paths)
    paths = pickles.save([1], "m", {}, tmp_path)
    paths[0].write_bytes(pickle.dumps([2]))
    with pytest.raises(Rejected, match="not opened"):
        pickles.load(*paths)
