"""Run names by pattern: what a run is called is one decision, not one a call."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mlflow_platform.errors import BadInput

#: mlflow/store/tracking/dbmodels/models.py: SqlRun.name
_LONGEST = 250


def run_name(pattern: str, fields: Mapping[str, Any], *, now: datetime | None = None) -> str:
    """`{type}-{id}-{timestamp}` with its fields filled in; `timestamp` is the time in UTC, to the microsecond
    (`20260102T030405.123456Z`), so that names of one pattern are unique and sort by time.

    What is not a letter, digit, dot, underscore or hyphen in a field becomes a hyphen. Raises `BadInput` for
    a pattern that is none, or that names a field that is not there.
    """
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    known = {"timestamp": moment.strftime("%Y%m%dT%H%M%S.%fZ"), **fields}
    try:
        wanted = {name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None}
    except ValueError as error:
        raise BadInput(f"{pattern!r} is no pattern of a run's name: {error}") from error
    missing = sorted(name for name in wanted if known.get(name) is None)
    if missing or not pattern.strip():
        raise BadInput(
            f"the pattern {pattern!r} asks for {', '.join(missing) or 'nothing'}",
            remedy=f"there are: {', '.join(sorted(k for k, v in known.items() if v is not None))}",
        )
    plain = {k: re.sub(r"[^\w.\-]+", "-", str(v)).strip("-") for k, v in known.items()}
    return string.Formatter().vformat(pattern, (), plain)[:_LONGEST]
