"""Plain conditions as filters of MLflow's search language, quoted so that a value can never say more."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from mlflow_platform.errors import BadInput

Entity = Literal["params", "tags", "metrics"]

#: Comparisons as they may begin a value; `~` is MLflow's ILIKE, with `%` for any text.
_OPERATORS = {">=": ">=", "<=": "<=", "!=": "!=", ">": ">", "<": "<", "=": "=", "~": "ILIKE"}
_OPERATOR = re.compile(r"\s*(>=|<=|!=|>|<|=|~)\s*(.*)\Z", re.DOTALL)
#: MLflow's SQL stores keep infinities as the largest double (`mlflow.store.tracking.sqlalchemy_store`).
_LEAST = -sys.float_info.max
_TRUTH = {"true": "1", "yes": "1", "false": "0", "no": "0"}


@dataclass(frozen=True)
class Condition:
    """That the value called `key` compares so with `value`."""

    key: str
    operator: str
    value: str


def condition(key: str, text: str) -> Condition:
    """`prov`, `!=prov`, `>= 0.8` or `~%owl%` as a condition on `key`; without an operator it is `=`."""
    found = _OPERATOR.match(text)
    return Condition(key, _OPERATORS[found[1]], found[2]) if found else Condition(key, "=", text)


def has(entity: Entity, key: str) -> str:
    """The filter of runs that have this param, tag or metric."""
    if entity == "metrics":  # MLflow has no IS NOT NULL for metrics
        return _checked(entity, Condition(key, ">=", ""), _number(_LEAST))
    return f"{entity}.{_key(key)} IS NOT NULL"


def clause(entity: Entity, wanted: Condition) -> str:
    """One comparison in MLflow's language. Raises `BadInput` for what it cannot say."""
    if entity != "metrics":
        if wanted.operator in (">", "<", ">=", "<="):
            raise BadInput(
                f"{wanted.key} is one of the {entity}, which are texts: {wanted.operator} is for metrics",
                remedy="compare with =, != or ~ (as in --name '~%part%')",
            )
        for quote in "'\"":
            text = f"{quote}{wanted.value}{quote}"
            if quote not in wanted.value and _means(entity, wanted, text):
                return _checked(entity, wanted, text)
        raise BadInput(
            f"MLflow's filters cannot say the value {wanted.value!r} of {wanted.key}",
            remedy="search for a part of it with ~ and %, or by another value",
        )
    if wanted.operator == "ILIKE":
        raise BadInput(
            f"{wanted.key} is a metric: ~ is for texts", remedy="compare with =, !=, <, <=, > or >="
        )
    try:
        return _checked(entity, wanted, _number(float(_TRUTH.get(wanted.value.lower(), wanted.value))))
    except ValueError:
        raise BadInput(
            f"{wanted.key} is a metric, and {wanted.value!r} is no number",
            remedy="give a number, true or false, such as --accuracy '>0.8'",
        ) from None


def trace_name(name: str) -> str:
    """The filter of traces of this name."""
    for quote in "'\"":
        if quote not in name:
            return f"trace.name = {quote}{name}{quote}"
    raise BadInput(f"MLflow's filters cannot say the name {name!r}", remedy="search by something else")


def both(*clauses: str) -> str:
    """All of them; empty ones do not count. MLflow's language has AND alone, no parentheses."""
    return " and ".join(c for c in clauses if c)


def order(entity: Entity, key: str, *, descending: bool) -> str:
    """An `order_by` entry of `search_runs`."""
    return f"{entity}.{_key(key)} {'DESC' if descending else 'ASC'}"


def _number(value: float) -> str:
    """A number as MLflow's parser takes it: without an exponent. Raises `ValueError` for NaN."""
    if math.isnan(value):
        raise ValueError(value)
    return f"{Decimal(repr(max(_LEAST, min(-_LEAST, value)))):f}"


def _key(key: str) -> str:
    quote = "`" if '"' in key else '"'
    if not key or quote in key:
        raise BadInput(f"{key!r} cannot be the name of a param, tag or metric", remedy="correct the name")
    return f"{quote}{key}{quote}"


def _checked(entity: Entity, wanted: Condition, value: str) -> str:
    return f"{entity}.{_key(wanted.key)} {wanted.operator} {value}"


def _means(entity: Entity, wanted: Condition, text: str) -> bool:
    """Whether MLflow's own parser reads exactly this condition."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.search_utils import SearchUtils

    try:
        parsed: list[dict[str, Any]] = SearchUtils.parse_search_filter(_checked(entity, wanted, text))
    except MlflowException:
        return False
    expected = {
        "type": entity.removesuffix("s").replace("param", "parameter"),
        "key": wanted.key,
        "comparator": wanted.operator,
        "value": wanted.value,
    }
    return parsed == [expected]
