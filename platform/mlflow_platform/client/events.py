"""Dual logging: what is logged is also a line of a JSONL file that can be tailed while the run goes on."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class EventLog:
    """Appends one line an event, with one `write` each, so that programs may share a file.

    A line is an object with `time` (ISO 8601, UTC), `event`, and what belongs to it; NaN and infinities
    are the strings `NaN`, `Infinity` and `-Infinity`, as JSON has no numbers for them.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def write(self, event: str, **fields: Any) -> None:
        """Append a line. Raises OSError."""
        line = {"time": datetime.now(UTC).isoformat(), "event": event, **fields}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(as_json(line), ensure_ascii=False, default=str) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, text.encode("utf-8", "backslashreplace"))
        finally:
            os.close(file)


def as_json(value: Any) -> Any:
    """A value that standard JSON can hold, as far as its containers are JSON's."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    return value
