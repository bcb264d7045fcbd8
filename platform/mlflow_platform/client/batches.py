"""Many `log` records of one run as few `log_batch` calls, within MLflow's limits.

A `log` record is `{"op": "log", "run": id, "m": metrics, "p": params, "t": tags}`; a metric is
`[key, value, timestamp in ms, step]` and, where it has them, `model id, dataset name, dataset digest`;
params and tags are `[key, value]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import isfinite
from operator import index
from typing import Any

from mlflow_platform.client.events import as_json
from mlflow_platform.client.spool import Record

PARENT_TAG = "mlflow.parentRunId"  # mlflow/utils/mlflow_tags.py

#: Limits of one log_batch (mlflow/utils/validation.py: MAX_ENTITIES_PER_BATCH, MAX_PARAMS_TAGS_PER_BATCH,
#: MAX_BATCH_LOG_REQUEST_SIZE, the last of which counts the JSON text of the request).
MAX_ENTITIES = 1000
MAX_PARAMS = MAX_TAGS = 100
MAX_BYTES = 900_000
#: What protobuf's int64 holds: of a number beyond it MLflow's server reads nothing, nor what follows it, and
#: answers 200 (mlflow/server/handlers.py, `_get_request_message`).
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
#: JSON around one entity: braces, field names, a value, a timestamp, a step, and a model's id.
_FRAME_BYTES = 250

Entity = list[Any]


@dataclass(slots=True)
class Batch:
    """What one log_batch call sends. A param or tag key occurs once."""

    metrics: list[Entity] = field(default_factory=list)
    params: dict[Any, Entity] = field(default_factory=dict)
    tags: dict[Any, Entity] = field(default_factory=dict)
    size: int = 0

    def __len__(self) -> int:
        return len(self.metrics) + len(self.params) + len(self.tags)

    def takes(self, record: Record) -> bool:
        """Add a whole record if it fits; False, and nothing added, if it does not."""
        metrics, params, tags = record.get("m", ()), record.get("p", ()), record.get("t", ())
        size = sum([_FRAME_BYTES + len(str(m[0])) for m in metrics])
        if params or tags:
            size += sum(_size(e) for entities in (params, tags) for e in entities)
        count = len(self.metrics) + len(self.params) + len(self.tags)
        if count and (
            count + len(metrics) + len(params) + len(tags) > MAX_ENTITIES
            or len(self.params) + len(params) > MAX_PARAMS
            or len(self.tags) + len(tags) > MAX_TAGS
            or self.size + size > MAX_BYTES
            or any(self.params.get(_key(p), p) != p for p in params)
        ):
            return False
        self.size += size
        self.add(record)
        return True

    def add(self, record: Record) -> None:
        """Add a record that is known to fit."""
        self.metrics += record.get("m", ())
        # MLflow refuses a second value of a param: the one that came second must come to it second.
        for param in record.get("p", ()):
            self.params[_key(param)] = param
        for tag in record.get("t", ()):
            self.tags[_key(tag)] = tag

    def request(self, run: str, real: Callable[[str], str]) -> bytes:
        """The body of a log_batch, as MLflow's REST API takes it; `real` gives the server's ids.

        MLflow's own client makes protobuf of it, JSON of that, and that twice: 26 ms for a thousand metrics
        that a server takes 65 for; this takes 5. Raises ValueError, TypeError, OverflowError for what that
        would not send.
        """
        body = {
            "run_id": run,
            "metrics": [_metric(m, real) for m in self.metrics],
            "params": [{"key": _text(k), "value": _text(v)} for k, v in self.params.values()],
            "tags": [
                {"key": _text(k), "value": _text(real(v) if k == PARENT_TAG else v)}
                for k, v in self.tags.values()
            ],
        }
        # Not escaped: half a surrogate pair, which the server could not read, fails here.
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()

    def parts(self) -> Iterable[Batch]:
        """Itself, or where a single record was beyond the limits already, pieces that are not."""
        if (
            len(self) <= MAX_ENTITIES
            and len(self.params) <= MAX_PARAMS
            and len(self.tags) <= MAX_TAGS
            and self.size <= MAX_BYTES
        ):
            return (self,)
        return self._pieces()

    def _pieces(self) -> list[Batch]:
        pieces = [Batch()]
        for kind, entity in self.entities():
            one: Record = {kind: [entity]}
            if not pieces[-1].takes(one):
                pieces.append(Batch())
                pieces[-1].takes(one)
        return pieces

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches with about half of the entities each."""
        entities = list(self.entities())
        middle = len(entities) // 2
        halves = Batch(), Batch()
        for i, (kind, entity) in enumerate(entities):
            halves[i >= middle].takes({kind: [entity]})
        return halves

    def entities(self) -> Iterable[tuple[str, Entity]]:
        yield from (("m", m) for m in self.metrics)
        yield from (("p", p) for p in self.params.values())
        yield from (("t", t) for t in self.tags.values())

    def record(self, run: str) -> Record:
        """As one record again."""
        parts = {"m": self.metrics, "p": list(self.params.values()), "t": list(self.tags.values())}
        return {"op": "log", "run": run, **{k: v for k, v in parts.items() if v}}


def _metric(entity: Entity, real: Callable[[str], str]) -> dict[str, Any]:
    key, value, timestamp, step = entity[:4]
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no value of a metric")
    value = float(value)
    made = {
        "key": _text(key),
        # What JSON has no numbers for, in protobuf's words for it.
        "value": value if isfinite(value) else as_json(value),
        "timestamp": whole(timestamp),
        "step": whole(step),
    }
    if len(entity) > 4:
        model, dataset, digest = entity[4:]
        named = {"model_id": model and real(model), "dataset_name": dataset, "dataset_digest": digest}
        made.update({k: _text(v) for k, v in named.items() if v})
    return made


def whole(value: Any) -> int:
    """A whole number of at most 64 bits, as steps and times are. Raises TypeError, OverflowError."""
    number = int(index(value))
    if not _LEAST <= number <= _MOST:
        raise OverflowError(f"{number} has more than 64 bits")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _key(entity: Entity) -> Any:
    """What a param or tag is told apart by; also one whose key is no text, which its server will refuse."""
    return entity[0] if isinstance(entity[0], str) else (repr(entity[0]),)


def _size(entity: Entity) -> int:
    text = sum(len(json.dumps(v)) if isinstance(v, str) and not v.isascii() else len(str(v)) for v in entity)
    return text + _FRAME_BYTES
