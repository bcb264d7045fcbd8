"""What `api_calls` printed, so that two of them can be compared: ids by the order in which they are met,
times by a word."""

from __future__ import annotations

import json
import re
from typing import Any

_IDS = re.compile(
    r"\b(?:[a-z]{1,2}-)?[0-9a-f]{32}\b"  # runs, models, traces, datasets, inputs
    r"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"  # webhooks
    r"|\b[0-9a-f]{16}\b"  # spans
)
#: Since 2001, in ms or ns; the times that the programs give themselves are earlier.
_TIMES = re.compile(r"\b1\d{12}(?:\d{6})?\b")
_DATES = re.compile(r"\b20\d\d-\d\d-\d\d[T ][0-9:.]+(?:Z|[+-]\d\d:?\d\d)?|\b\d{8}T\d{6}\b")
#: Of a serial number, or of how long something took, in the row or beside the key of that name.
_VARYING = {"id", "role_id", "mlflow.trace.sizeStats", "mlflow.trace.sizeBytes", "response_time_ms"}
#: In MLflow's own JSON of a span, in base64.
_BASE64 = {"trace_id", "span_id", "parent_span_id"}


def read(text: str, name: str) -> list[dict[str, Any]]:
    """The calls of a program that used `name`, normalised."""
    calls = [json.loads(line) for line in text.splitlines()]
    experiments = {call["returned"] for call in calls if call["call"] == "create_experiment"} - {None}
    seen: dict[str, str] = {}
    return [_named(_sorted(_without(call, name, experiments)), seen) for call in calls]


def _without(value: Any, name: str, experiments: set[str], key: str = "") -> Any:
    """A value without the program's name, its experiments' ids, times and serial numbers."""
    if isinstance(value, dict):
        # A row of a table of tags and the like: what it holds goes by the row's own key.
        own = {"value": str(value.get("key")), "content": "content"}
        return {
            _text(k, name, experiments): _without(v, name, experiments, own.get(k, k))
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_without(v, name, experiments, key) for v in value]
    if value is None or isinstance(value, bool):
        return value
    if key in _VARYING or (key in _BASE64 and not _IDS.fullmatch(str(value))):
        return f"<{key}>"
    if isinstance(value, str):
        if value[:1] in "{[":
            try:
                return _without(json.loads(value), name, experiments, key)
            except ValueError:
                pass
        return _text(value, name, experiments)
    if isinstance(value, int):
        of_experiment = key == "experiment_id" and str(value) in experiments
        return "<experiment>" if of_experiment else "<time>" if _TIMES.fullmatch(str(value)) else value
    return repr(value)


def _text(value: str, name: str, experiments: set[str]) -> str:
    if value in experiments:
        return "<experiment>"
    value = _DATES.sub("<date>", _TIMES.sub("<time>", value.replace(name, "<name>")))
    return re.sub(
        r"(?:(?<=:/)|^)(\d+)(?=/|$)", lambda m: "<experiment>" if m[1] in experiments else m[1], value
    )


def _sorted(call: dict[str, Any]) -> dict[str, Any]:
    """Rows and objects in an order that does not hang on ids."""
    for change in call.get("changes", {}).values():
        for rows in change.values():
            rows.sort(key=lambda row: _IDS.sub("", json.dumps(row, sort_keys=True)))
    return call


def _named(value: Any, seen: dict[str, str]) -> Any:
    text = json.dumps(value, sort_keys=True)
    return json.loads(_IDS.sub(lambda m: seen.setdefault(m[0], f"<{len(seen)}>"), text))
