"""Which records must keep their order, which must wait for others, and which go together in a request."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from mlflow_platform.client.batches import Batch
from mlflow_platform.client.progress import Pending
from mlflow_platform.client.spool import Record

#: Spans of one request.
_SPANS = 500


@dataclass(slots=True)
class Lane:
    """Records that must keep their order."""

    waiting: deque[Pending] = field(default_factory=deque)
    attempts: int = 0
    first_failed: float = 0.0
    retry_at: float = 0.0
    #: How many deliveries of the same kind had succeeded when this one first failed.
    others: int = 0


def lane_of(record: Record) -> str:
    """The kind and name of the order that a record must keep."""
    op = record["op"]
    if op == "artifact":
        return f"artifact:{record['owner'][1] if record['owner'] else record['uri']}"
    if op == "start_trace":
        return f"trace:{record['trace']}"
    if op == "log_spans":
        return f"spans:{record['experiment']}"
    for kind in ("trace", "run", "model", "experiment"):
        if kind in record and not (kind == "run" and op == "create_model"):
            return f"{kind}:{record[kind]}"
    return str(op)


def creates(record: Record) -> list[str]:
    """Ids of what the record brings about."""
    match record["op"]:
        case "create_run":
            return [record["run"]]
        case "create_model":
            return [record["model"]]
        case "create_experiment":
            return [record["experiment"]]
        case "start_trace":
            return [record["trace"]]
    return []


def mentions(record: Record) -> Iterator[str]:
    """Ids of what must be there before."""
    for kind in ("run", "model", "experiment", "trace"):
        if value := record.get(kind):
            yield value
    op = record["op"]
    if op == "log":
        yield from (m[4] for m in record.get("m", ()) if len(m) > 4 and m[4])
    if op in ("create_run", "log"):
        tags = record["tags"] if op == "create_run" else record.get("t", ())
        yield from (value for key, value in tags if key == "mlflow.parentRunId")
    elif op in ("log_inputs", "log_outputs"):
        yield from (m if isinstance(m, str) else m[0] for m in record["models"])
    elif op == "start_trace":
        info = record["info"]
        yield info.get("trace_location", {}).get("mlflow_experiment", {}).get("experiment_id", "")
        yield info.get("trace_metadata", {}).get("mlflow.sourceRun", "")
    elif op == "link_traces":
        yield from record["traces"]
    elif op == "artifact" and record["owner"]:
        yield record["owner"][1]


def take(waiting: deque[Pending]) -> list[Pending]:
    """The records that go into the next request: one, or as many of a kind as it holds."""
    first = waiting[0]
    op, workspace = first.record["op"], first.record.get("w")
    taken: list[Pending] = []
    batch, spans = Batch(), 0
    for item in waiting:
        record = item.record
        if record["op"] != op or record.get("w") != workspace:
            break
        if op == "log":
            if not batch.takes(record):
                break
        elif op == "log_spans":
            spans += len(record["spans"])
            if taken and spans > _SPANS:
                break
        elif taken:
            break
        taken.append(item)
    return taken
