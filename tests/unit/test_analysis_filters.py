"""Plain conditions, as MLflow's own parser reads them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.search_utils import SearchUtils

from mlflow_platform.client.analysis import filters
from mlflow_platform.client.analysis.filters import Condition
from mlflow_platform.errors import BadInput

#: What MLflow allows in the name of a param or metric (`mlflow.utils.validation`).
KEYS = st.text("abcXYZ019_-. :/", min_size=1, max_size=30)


def parsed(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = SearchUtils.parse_search_filter(text)
    return found


@given(KEYS, st.sampled_from(["=", "!=", "ILIKE"]), st.text(max_size=40))
def test_a_value_says_itself_and_nothing_more(key: str, operator: str, value: str) -> None:
    try:
        text = filters.clause("params", Condition(key, operator, value))
    except BadInput:
        return
    expected = {"type": "parameter", "key": key, "comparator": operator, "value": value}
    assert parsed(text) == [expected]


@pytest.mark.parametrize(
    "value", ["it's", 'say "x"', "x' and tags.a = 'b", "a\\", "--", ";", "%", "", "ünïcode"]
)
def test_usual_and_wicked_values_can_be_said(value: str) -> None:
    (found,) = parsed(filters.clause("tags", Condition("select", "=", value)))
    assert (found["type"], found["key"], found["value"]) == ("tag", "select", value)


def test_what_cannot_be_said_is_refused() -> None:
    with pytest.raises(BadInput, match="cannot say the value"):
        filters.clause("params", Condition("a", "=", "both ' and \""))
    with pytest.raises(BadInput, match="> is for metrics"):
        filters.clause("params", filters.condition("a", ">3"))
    with pytest.raises(BadInput, match="'prov' is no number"):
        filters.clause("metrics", filters.condition("a", "prov"))
    with pytest.raises(BadInput, match="'nan' is no number"):
        filters.clause("metrics", filters.condition("a", "nan"))
    with pytest.raises(BadInput, match="~ is for texts"):
        filters.clause("metrics", filters.condition("a", "~1"))


@given(
    KEYS, st.sampled_from([">", ">=", "<", "<=", "=", "!="]), st.floats(allow_nan=False, allow_infinity=False)
)
def test_every_number_can_be_compared_with(key: str, operator: str, value: float) -> None:
    (found,) = parsed(filters.clause("metrics", filters.condition(key, f"{operator} {value!r}")))
    assert (found["key"], found["comparator"], float(found["value"])) == (key, operator, value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prov", ("=", "prov")),
        ("!=prov", ("!=", "prov")),
        ("~%owl%", ("ILIKE", "%owl%")),
        (">= 0.8", (">=", "0.8")),
        ("a = b", ("=", "a = b")),
    ],
)
def test_a_value_may_begin_with_an_operator(text: str, expected: tuple[str, str]) -> None:
    found = filters.condition("k", text)
    assert (found.operator, found.value) == expected


def test_truth_is_one_for_metrics() -> None:
    assert [
        float(parsed(filters.clause("metrics", Condition("c", "=", v)))[0]["value"]) for v in ("true", "No")
    ] == [1, 0]
