"""Runs and traces as data frames of pandas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mlflow_platform.client.analysis.exporting import RUN, TRACE, Row, run_row, trace_row

if TYPE_CHECKING:
    import pandas

    from mlflow_platform.client.analysis.reading import Run, Trace


def runs_frame(of: Iterable[Run]) -> pandas.DataFrame:
    """A row a run; `params.*` texts, `metrics.*` numbers, `tags.*` texts; times in UTC."""
    return _frame([run_row(r) for r in of], list(RUN), "start_time", "end_time")


def traces_frame(of: Iterable[Trace]) -> pandas.DataFrame:
    """Traces as a data frame: a row a trace, `duration_ms` a number, `tags.*` texts; times in UTC."""
    return _frame([trace_row(t) for t in of], list(TRACE), "start_time")


def _frame(rows: Sequence[Row], fixed: list[str], *times: str) -> pandas.DataFrame:
    import pandas

    more = sorted({k for row in rows for k in row} - set(fixed))
    frame = pandas.DataFrame(rows, columns=[*fixed, *more])
    for column in times:
        # What pandas has no time for, as nanoseconds that were given for milliseconds, is NaT.
        numbers = pandas.to_numeric(frame[column])
        frame[column] = pandas.to_datetime(numbers, unit="ms", utc=True, errors="coerce")
    return frame
