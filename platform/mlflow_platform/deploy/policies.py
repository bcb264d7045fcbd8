"""Retention policies and backup schedules among a chart's values: checked with the models, of which the chart
knows nothing."""

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
from mlflow_platform.model import DOCUMENTS
from mlflow_platform.model.base import API_VERSION

#: Where values have documents of which kind.
_LISTS = {("retention", "policies"): "RetentionPolicy", ("backup", "schedules"): "BackupSchedule"}


def check(values: Values) -> None:
    """Raises `BadDocuments` with every mistake in `retention.policies` and `backup.schedules`."""
    problems: list[Problem] = []
    for (group, name), kind in _LISTS.items():
        for index, one in enumerate(values.data.get(group, {}).get(name, ())):
            problems += _problems(kind, one, _ValuesPlaces(values, (group, name, index)))
    if problems:
        raise BadDocuments(problems)


class _ValuesPlaces(Places):
    """Where the fields of the document at this place in the values are written."""

    def __init__(self, values: Values, place: tuple[Step, ...]) -> None:
        super().__init__("values")
        self._values = values
        self._place = place

    def find(self, root: Node, path: tuple[Step, ...], *, key: bool = False) -> Location:  # noqa: ARG002 - as in Places
        whole = ".".join(str(step) for step in self._place[:-1])
        return self._values.place((*self._place, *path)) or Location(whole)


def _problems(kind: str, written: dict[str, Any], places: Places) -> Iterator[Problem]:
    document = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": written["name"]},
        "spec": written["spec"],
    }
    try:
        DOCUMENTS[kind].model_validate(document)
    except ValidationError as error:
        root = next(compose(json.dumps(document))).node
        yield from problems_of(error, document, kind, root, places)[0]
