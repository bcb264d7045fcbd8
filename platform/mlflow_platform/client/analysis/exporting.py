"""Rows of any length into a file: CSV, JSON, JSON lines or Parquet, with flat memory, whole or not at all."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mlflow_platform.client.analysis.reading import SYSTEM_TAGS, Point, Run, Trace
from mlflow_platform.client.analysis.tables import exact, plain
from mlflow_platform.errors import BadInput

SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
#: Columns that are always there, with their types; of others those that begin with `metrics.` are numbers,
#: the rest texts. Times are milliseconds since 1970.
RUN = {
    "run_id": "text",
    "name": "text",
    "experiment": "text",
    "status": "text",
    "start_time": "whole",
    "end_time": "whole",
    "duration_seconds": "number",
}
TRACE = {
    "trace_id": "text",
    "experiment": "text",
    "status": "text",
    "start_time": "whole",
    "duration_ms": "whole",
    "run_id": "text",
    "request": "text",
    "response": "text",
}
POINT = {"run_id": "text", "metric": "text", "step": "whole", "timestamp": "whole", "value": "number"}
#: Rows of a row group of Parquet.
_GROUP = 5000

Row = Mapping[str, Any]


def run_row(run: Run) -> Row:
    return {
        "run_id": run.id,
        "name": run.name,
        "experiment": run.experiment,
        "status": run.status,
        "start_time": run.start,
        "end_time": run.end,
        "duration_seconds": run.seconds,
        **{f"params.{k}": v for k, v in run.params.items()},
        **{f"metrics.{k}": v for k, v in run.metrics.items()},
        **{f"tags.{k}": v for k, v in run.tags.items() if not k.startswith(SYSTEM_TAGS)},
    }


def trace_row(trace: Trace) -> Row:
    return {
        "trace_id": trace.id,
        "experiment": trace.experiment,
        "status": trace.status,
        "start_time": trace.start,
        "duration_ms": trace.milliseconds,
        "run_id": trace.run,
        "request": trace.request,
        "response": trace.response,
        **{f"tags.{k}": v for k, v in trace.tags.items()},
    }


def point_row(point: Point) -> Row:
    return {
        "run_id": point.run,
        "metric": point.key,
        "step": point.step,
        "timestamp": point.timestamp,
        "value": point.value,
    }


def check(file: Path) -> None:
    """Raises `BadInput` for a suffix that is none of `SUFFIXES`."""
    if file.suffix not in SUFFIXES:
        raise BadInput(f"{file.name}: no such format", remedy=f"end the name with {', '.join(SUFFIXES)}")


def write(rows: Iterable[Row], file: Path, fixed: Mapping[str, str]) -> int:
    """Write the rows and return how many. The columns are known only after the last row, so the rows wait in
    a temporary file; the named one appears when it is whole. Raises `BadInput`, `OSError`."""
    check(file)
    with tempfile.TemporaryFile("w+", encoding="utf-8", dir=file.parent) as kept:
        count, more = 0, set[str]()
        for row in rows:
            kept.write(json.dumps(row) + "\n")
            more.update(row.keys() - fixed.keys())
            count += 1
        columns = {**fixed, **{k: "number" if k.startswith("metrics.") else "text" for k in sorted(more)}}
        kept.seek(0)
        partial = file.with_name(f".{file.name}.partial")
        try:
            _WRITERS[file.suffix](map(json.loads, kept), partial, columns)
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    return count


def _csv(rows: Iterator[Row], file: Path, columns: Mapping[str, str]) -> None:
    with file.open("w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(columns)
        writer.writerows([exact(row.get(c)) for c in columns] for row in rows)


def _json(rows: Iterator[Row], file: Path, columns: Mapping[str, str]) -> None:  # noqa: ARG001 - as the others
    with file.open("w", encoding="utf-8") as text:
        text.write("[")
        for place, row in enumerate(rows):
            text.write(",\n" if place else "\n")
            _line(row, text)
        text.write("\n]\n")


def _jsonl(rows: Iterator[Row], file: Path, columns: Mapping[str, str]) -> None:  # noqa: ARG001 - as the others
    with file.open("w", encoding="utf-8") as text:
        for row in rows:
            _line(row, text)
            text.write("\n")


def _line(row: Row, text: IO[str]) -> None:
    json.dump({k: plain(v) for k, v in row.items()}, text, ensure_ascii=False, allow_nan=False)


def _parquet(rows: Iterator[Row], file: Path, columns: Mapping[str, str]) -> None:
    import pyarrow
    from pyarrow import parquet

    types = {"text": pyarrow.string(), "whole": pyarrow.int64(), "number": pyarrow.float64()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in _groups(rows):
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def _groups(rows: Iterator[Row]) -> Iterator[Sequence[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(dict(row))
        if len(group) == _GROUP:
            yield group
            group = []
    if group:
        yield group


_WRITERS = {".csv": _csv, ".json": _json, ".jsonl": _jsonl, ".parquet": _parquet}
