"""Retention policies among a chart's values: checked with the model, since the chart knows nothing of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from yaml.nodes import Node

from mlflow_platform.chart import Values
from mlflow_platform.config.composer import Places, Step, compose
from mlflow_platform.config.wording import problems_of
from mlflow_platform.errors import BadDocuments, Location, Problem
from mlflow_platform.model.base import API_VERSION
from mlflow_platform.model.retention_policy import RetentionPolicy

_LIST = ("retention", "policies")


def check(values: Values) -> None:
    """Raises `BadDocuments` with every mistake in `retention.policies`, and where it is written."""
    policies = values.data.get("retention", {}).get("policies", ())
    problems = [p for i, policy in enumerate(policies) for p in _problems(values, i, policy)]
    if problems:
        raise BadDocuments(problems)


class _ValuesPlaces(Places):
    """Where the fields of the policy with this index are written."""

    def __init__(self, values: Values, index: int) -> None:
        super().__init__("values")
        self._values = values
        self._index = index

    def find(self, root: Node, path: tuple[Step, ...], *, key: bool = False) -> Location:  # noqa: ARG002 - as in Places
        return self._values.place((*_LIST, self._index, *path)) or Location(".".join(_LIST))


def _problems(values: Values, index: int, policy: dict[str, Any]) -> Iterator[Problem]:
    document = {
        "apiVersion": API_VERSION,
        "kind": "RetentionPolicy",
        "metadata": {"name": policy["name"]},
        "spec": policy["spec"],
    }
    try:
        RetentionPolicy.model_validate(document)
    except ValidationError as error:
        root = next(compose(json.dumps(document))).node
        yield from problems_of(error, document, "RetentionPolicy", root, _ValuesPlaces(values, index))[0]
