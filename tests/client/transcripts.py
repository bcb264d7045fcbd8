"""What `api_calls` and `autologging` printed, so that two of them can be compared: without ids, times and
what is random."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from typing import Any

_IDS = re.compile(
    r"\b(?:[a-z]{1,2}-)?[0-9a-f]{32}\b"  # runs, models, traces, datasets, inputs
    r"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"  # webhooks
    r"|(?<!\.)\b[0-9a-f]{16}\b"  # spans, not the digits of a number
)
#: Since 2001, in ms or ns; the times that the programs give themselves are earlier.
_TIMES = re.compile(r"\b1\d{12}(?:\d{6})?\b")
_DATES = re.compile(r"\b20\d\d-\d\d-\d\d[T ][0-9:.]+(?:Z|[+-]\d\d:?\d\d)?|\b\d{8}T\d{6}\b")
#: A run that was given no name.
_RANDOM_NAME = re.compile(r"\b[a-z]+-[a-z]+-\d{1,3}\b")
#: Of a serial number, or of how long something took, in the row or beside the key of that name.
_VARYING = re.compile(
    r"id|role_id|.*_(?:fit|score)_time|execution_time_ms|.*duration.*|response_time_ms|utc_time_created|"
    r"mlflow\.trace\.size.*|.*size_bytes|"
    # How many requests wrote to a trace: spans go together in fewer.
    r"db_payload_generation|"
    # Of an evaluation dataset made from its time; of a webhook encrypted, never twice alike.
    r"digest|secret"
)
#: What may be an experiment's id, which is as short as any other number.
_OF_EXPERIMENTS = {
    *("returned", "experiment_id", "experiment_ids", "mlflow.experimentId", "resource_pattern"),
    *("source_id", "destination_id"),
}
_IN_PATHS = re.compile(r"(?<=:/)\d+(?=/|$)|^\d+(?=/)")
_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d+")
#: In MLflow's own JSON of a span, in base64.
_BASE64 = {"trace_id", "span_id", "parent_span_id"}


def read(text: str, name: str) -> list[dict[str, Any]]:
    """The calls of a program that used `name`, with ids by the order in which they are met."""
    seen: dict[str, str] = {}
    return [_named(_sorted(call), seen) for call in _calls(text, name)]


def rows(text: str, name: str) -> Counter[str]:
    """All rows that a program changed, with the keys of objects; ids by what they are joined to.

    Each id is called after the rows that hold it, in which other ids are called after theirs, and so on: two
    programs that left the same leave the same rows, in whatever order their ids are."""
    changed = [
        f"{place} {json.dumps(row[0] if place == 'bucket' else row, sort_keys=True)}"
        for call in _calls(text, name)
        for place, change in call["changes"].items()
        for row in change.get("new", ())
    ]
    names: dict[str, str] = {}
    for _ in range(4):
        rows_of = defaultdict(list)
        for row in changed:
            for one in set(_IDS.findall(row)):
                rows_of[one].append(_called(row, {**names, one: "*"}))
        names = {
            one: hashlib.sha256("\n".join(sorted(of)).encode()).hexdigest()[:8] for one, of in rows_of.items()
        }
    return Counter(_called(row, names) for row in changed)


def _called(row: str, names: dict[str, str]) -> str:
    return _IDS.sub(lambda m: f"<{names.get(m[0], '')}>", row)


def without_ids(found: Counter[str]) -> Counter[str]:
    """The same with nothing of what rows are joined to: where two differ, this shows it readably."""
    return Counter(re.sub("<[0-9a-f]{8}>", "<>", row) for row in found.elements())


def _calls(text: str, name: str) -> list[dict[str, Any]]:
    calls = [json.loads(line) for line in text.splitlines() if line[:1] == "{"]
    experiments = {c["returned"] for c in calls if c["call"] == "create_experiment"} - {None}
    return [_without(call, name, experiments) for call in calls]


def _without(value: Any, name: str, experiments: set[str], key: str = "") -> Any:
    """A value without the program's name, its experiments' ids, times and serial numbers."""
    if isinstance(value, dict):
        # A row of a table of tags and the like: what it holds goes by the row's own key.
        own = {"value": str(value.get("key")), "metric_value": str(value.get("metric_name"))}
        return {
            _text(k, name, experiments): _without(v, name, experiments, own.get(k, k))
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_without(v, name, experiments, key) for v in value]
    if value is None or isinstance(value, bool):
        return value
    if _VARYING.fullmatch(key) or (key in _BASE64 and not _IDS.fullmatch(str(value))):
        return f"<{key}>"
    if isinstance(value, str):
        if value[:1] in ("{", "[", '"'):
            try:
                return _without(json.loads(value), name, experiments, key)
            except ValueError:
                pass
        if key in _OF_EXPERIMENTS and value in experiments:
            return "<experiment>"
        return _text(value, name, experiments)
    if isinstance(value, int):
        of_experiment = key in _OF_EXPERIMENTS and str(value) in experiments
        return "<experiment>" if of_experiment else "<time>" if _TIMES.fullmatch(str(value)) else value
    return repr(value)


def _text(value: str, name: str, experiments: set[str]) -> str:
    value = _DATES.sub("<date>", _TIMES.sub("<time>", value.replace(name, "<name>")))
    value = value.removeprefix("durable+")
    value = _PORT.sub("<port>", _RANDOM_NAME.sub("<random name>", value))
    return _IN_PATHS.sub(lambda m: "<experiment>" if m[0] in experiments else m[0], value)


def _sorted(call: dict[str, Any]) -> dict[str, Any]:
    """Rows and objects in an order that does not hang on ids."""
    for change in call.get("changes", {}).values():
        for some in change.values():
            some.sort(key=lambda row: _IDS.sub("", json.dumps(row, sort_keys=True)))
    return call


def _named(value: Any, seen: dict[str, str]) -> Any:
    text = json.dumps(value, sort_keys=True)
    return json.loads(_IDS.sub(lambda m: seen.setdefault(m[0], f"<{len(seen)}>"), text))
