"""Figures of runs: metrics by step, and groups with their intervals. Made without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_platform.client.analysis import statistics
from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mlflow_platform.client.analysis.reading import Point, Run

#: Formats of a file, by its suffix.
SUFFIXES = ("svg", "png", "pdf")
_INCHES = (7.0, 4.2)
#: Lines that can still be told apart.
_MOST_LINES = 20


def curves(runs: Sequence[Run], points: Sequence[Point], metric: str, *, by_time: bool = False) -> Figure:
    """A metric over steps, or over seconds since each run's first value; a line a run."""
    if len(runs) > _MOST_LINES:
        raise BadInput(f"{len(runs)} lines cannot be told apart", remedy=f"choose at most {_MOST_LINES} runs")
    figure, axes = _empty()
    for run in runs:
        own = [p for p in points if p.run == run.id and p.key == metric]
        if own:
            first = own[0].timestamp
            places = [(p.timestamp - first) / 1000 if by_time else p.step for p in own]
            axes.plot(
                places, [p.value for p in own], marker="." if len(own) < 30 else "", label=_literal(run.name)
            )
    if not axes.lines:
        raise BadInput(f"none of these runs has the metric {metric!r}", remedy="correct the name")
    axes.set_xlabel("seconds" if by_time else "step")
    axes.set_ylabel(_literal(metric))
    axes.legend(fontsize="small")
    return figure


def bars(runs: Sequence[Run], metric: str) -> Figure:
    """The latest value of a metric, a bar a run."""
    kept = [r for r in runs if metric in r.metrics]
    if not kept:
        raise BadInput(f"none of these runs has the metric {metric!r}", remedy="correct the name")
    figure, axes = _empty()
    places = range(len(kept))
    axes.barh(places, [r.metrics[metric] for r in kept])
    axes.set_yticks(places, [_literal(r.name) for r in kept])
    axes.invert_yaxis()
    axes.set_xlabel(_literal(metric))
    return figure


def intervals(
    groups: Mapping[str, Sequence[float]],
    metric: str,
    *,
    ordered: bool = False,
    level: float = statistics.LEVEL,
) -> Figure:
    """Mean and confidence interval of every group; `ordered` ones are joined by a line."""
    figure, axes = _empty()
    found = {name: statistics.summary(values, level) for name, values in groups.items()}
    kept = [(name, s) for name, s in found.items() if s.mean is not None]
    places = range(len(kept))
    for place, (_, s) in zip(places, kept, strict=True):
        if s.low is not None and s.high is not None:
            axes.vlines(place, s.low, s.high)
    axes.plot(places, [s.mean for _, s in kept], marker="o", linestyle="-" if ordered else "")
    axes.set_xticks(places, [f"{_literal(name)}\nn={s.n}" for name, s in kept])
    axes.set_ylabel(f"{_literal(metric)} (mean, {100 * level:g} % CI)")
    return figure


def write(figure: Figure, file: Path) -> None:
    """Into a file of the format that its suffix says. Raises `BadInput` for another, `OSError`."""
    suffix = file.suffix.lstrip(".").lower()
    if suffix not in SUFFIXES:
        raise BadInput(
            f"{file.name}: no such format of figures", remedy=f"end the name with .{' or .'.join(SUFFIXES)}"
        )
    file.write_bytes(rendered(figure, suffix))


def rendered(figure: Figure, suffix: str) -> bytes:
    """A figure's file. The same figure gives the same bytes."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context({"svg.hashsalt": "mlplatform", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=suffix, metadata=dates.get(suffix), dpi=150)
    return buffer.getvalue()


def _empty() -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _literal(text: str) -> str:
    """Text in which matplotlib sees no formulas."""
    return text.replace("$", r"\$")
