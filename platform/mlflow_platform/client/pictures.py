"""Pictures of what agents do, as SVG and HTML that MLflow's artifact page shows.

Pure: values in, text out, with nothing loaded from anywhere; log them with `log_text_artifact`, as
`pictures/causal_chain.svg` or `dashboard.html`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mlflow_platform.errors import BadInput

_INK, _GREY, _LINE, _BOX, _GOOD, _BAD = "#1d2733", "#5b6876", "#8fa1b3", "#eef3f8", "#1a7f4b", "#b3261e"
_FONT = "font-family:system-ui,'DejaVu Sans',Arial,sans-serif"
_BOX_WIDTH, _BOX_HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 170, 56, 90, 34, 30
#: Characters that fit a box's line.
_FITS = 22


@dataclass(frozen=True)
class Link:
    """A cause and its effect, or an agent and the one it hands over to; `weight` is 0 to 1 (a confidence, a
    share of messages) and makes the arrow's width."""

    source: str
    target: str
    weight: float = 0.5
    label: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise BadInput(
                f"the link {self.source!r} to {self.target!r} has the weight {self.weight}, not 0 to 1"
            )


@dataclass(frozen=True)
class Kpi:
    """A figure of a dashboard: its values in time, the last one today's, and its target if it has one."""

    name: str
    values: Sequence[float]
    unit: str = ""
    target: float | None = None
    lower_is_better: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none, or no value."""
        if self.target is None or not self.values or not math.isfinite(self.values[-1]):
            return None
        return self.values[-1] <= self.target if self.lower_is_better else self.values[-1] >= self.target


def causal_chain(links: Sequence[Link], *, title: str = "Causal chain") -> str:
    """Causes left of their effects, one column a step; an arrow carries its confidence. An SVG document.

    Raises `BadInput` for no links, and for a cause that is its own effect by some way round.
    """
    return _graph(links, _columns(links), title, {})


def agents(links: Sequence[Link], tiers: Mapping[str, int], *, title: str = "Agents") -> str:
    """Agents in columns by tier (1 is leftmost), with arrows for what they hand over to each other; here
    circles are allowed. An SVG document. Raises `BadInput` for an agent without a tier."""
    names = _names(links) | dict.fromkeys(tiers)
    missing = sorted(n for n in names if n not in tiers)
    if missing or not names:
        raise BadInput(f"agents without a tier: {', '.join(missing) or 'there are none at all'}")
    ordered = sorted(set(tiers.values()))
    columns = {name: ordered.index(tiers[name]) for name in names}
    return _graph(links, columns, title, {i: f"tier {tier}" for i, tier in enumerate(ordered)})


def kpi_dashboard(kpis: Sequence[Kpi], *, title: str = "KPIs") -> str:
    """A card a figure: today's value, its target, and how it came there. An HTML document."""
    if not kpis:
        raise BadInput("there are no KPIs to show")
    cards = "\n".join(_card(k) for k in kpis)
    met = [k.met for k in kpis if k.met is not None]
    summary = f"{sum(met)} of {len(met)} targets met" if met else "no targets"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>
body {{ {_FONT}; color: {_INK}; margin: 24px; background: #fff }}
h1 {{ font-size: 20px; margin: 0 }} p {{ color: {_GREY}; margin: 4px 0 16px }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 14px }}
section {{ border: 1px solid #d5dee6; border-radius: 8px; padding: 14px }}
h2 {{ font-size: 13px; font-weight: 600; color: {_GREY}; margin: 0; overflow-wrap: anywhere }}
strong {{ font-size: 26px; display: block; margin: 4px 0 }}
small {{ font-size: 12px }} .met {{ color: {_GOOD} }} .missed {{ color: {_BAD} }} .none {{ color: {_GREY} }}
svg {{ width: 100%; height: 48px; margin-top: 8px }}
</style></head><body>
<h1>{escape(title)}</h1><p>{summary}</p>
<main>
{cards}
</main></body></html>
"""


def _card(kpi: Kpi) -> str:
    value = number(kpi.values[-1]) if kpi.values else "no value"
    unit = f" {kpi.unit}" if kpi.unit and kpi.values else ""
    if kpi.target is None:
        state, said = "none", "no target"
    else:
        state = {True: "met", False: "missed", None: "none"}[kpi.met]
        bound = "at most" if kpi.lower_is_better else "at least"
        said = f"{ {'met': '✓', 'missed': '✗', 'none': '?'}[state] } {bound} {number(kpi.target)}{unit or ''}"
    return (
        f"<section><h2>{escape(kpi.name)}</h2><strong>{escape(value + unit)}</strong>"
        f'<small class="{state}">{escape(said)}</small>{_spark(kpi)}</section>'
    )


def _spark(kpi: Kpi) -> str:
    """The values as a line, the target as a dashed one; gaps where a value is not finite."""
    known = [v for v in kpi.values if math.isfinite(v)]
    if len(known) < 2:
        return ""
    bounds = [*known, kpi.target] if kpi.target is not None else known
    low, high = min(bounds), max(bounds)
    span = (high - low) or 1.0

    def y(value: float) -> float:
        return round(44 - 40 * (value - low) / span, 1)

    step = 200 / (len(kpi.values) - 1)
    path, pen = "", "M"
    for i, value in enumerate(kpi.values):
        if math.isfinite(value):
            path += f"{pen}{i * step:.1f} {y(value)} "
            pen = "L"
        else:
            pen = "M"
    target = ""
    if kpi.target is not None:
        at = y(kpi.target)
        target = f'<line x1="0" x2="200" y1="{at}" y2="{at}" stroke="{_LINE}" stroke-dasharray="4 3"/>'
    return (
        f'<svg viewBox="0 0 200 48" preserveAspectRatio="none" role="img" aria-label="course">{target}'
        f'<path d="{path.strip()}" fill="none" stroke="{_INK}" stroke-width="2"/></svg>'
    )


def _columns(links: Sequence[Link]) -> dict[str, int]:
    """Each name's longest way from a first cause. Raises `BadInput` for a circle."""
    if not links:
        raise BadInput("there are no links to show")
    columns = dict.fromkeys(_names(links), 0)
    for _ in range(len(columns)):
        changed = False
        for link in links:
            if columns[link.target] <= columns[link.source]:
                columns[link.target] = columns[link.source] + 1
                changed = True
        if not changed:
            return columns
    raise BadInput("the causes go round in a circle", remedy="a causal chain has none; `agents` may")


def _names(links: Sequence[Link]) -> dict[str, None]:
    """Every name once, in order of appearance."""
    return dict.fromkeys(name for link in links for name in (link.source, link.target))


def _graph(links: Sequence[Link], columns: Mapping[str, int], title: str, heads: Mapping[int, str]) -> str:
    places: dict[str, tuple[float, float]] = {}
    rows: dict[int, int] = {}
    most = max(list(columns.values()).count(c) for c in set(columns.values()))
    top = _MARGIN + 34 + (20 if heads else 0)
    for name, column in columns.items():
        count = list(columns.values()).count(column)
        row = rows.get(column, 0)
        rows[column] = row + 1
        offset = (most - count) * (_BOX_HEIGHT + _GAP_Y) / 2
        x = _MARGIN + column * (_BOX_WIDTH + _GAP_X)
        places[name] = (x, top + offset + row * (_BOX_HEIGHT + _GAP_Y))
    width = 2 * _MARGIN + (max(columns.values()) + 1) * (_BOX_WIDTH + _GAP_X) - _GAP_X
    height = top + most * (_BOX_HEIGHT + _GAP_Y) - _GAP_Y + _MARGIN
    at = f'x="{_MARGIN}" y="{_MARGIN + 6}"'
    parts = [f'<text {at} font-size="18" font-weight="600" fill="{_INK}">{escape(title)}</text>']
    for column, head in heads.items():
        x = _MARGIN + column * (_BOX_WIDTH + _GAP_X)
        parts.append(f'<text x="{x}" y="{_MARGIN + 36}" font-size="12" fill="{_GREY}">{escape(head)}</text>')
    # Straight, these would go through the boxes between.
    round_about = [link for link in links if columns[link.target] - columns[link.source] not in (0, 1)]
    for i, link in enumerate(links):
        lane = height - _MARGIN + 18 + 14 * round_about.index(link) if link in round_about else 0
        parts.append(_arrow(link, places, lane, 0.35 if i % 2 else 0.65))
    height += 14 * len(round_about)
    parts += [_box(name, *place) for name, place in places.items()]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" width="{width}" '
        f'height="{height:.0f}" style="{_FONT}" role="img"><title>{escape(title)}</title>'
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L8 4L0 8z" fill="{_GREY}"/></marker></defs>'
        f'<rect width="100%" height="100%" fill="#fff"/>' + "".join(parts) + "</svg>\n"
    )


def _box(name: str, x: float, y: float) -> str:
    lines = _wrapped(name)
    first = y + _BOX_HEIGHT / 2 + 5 - 8 * (len(lines) - 1)
    texts = "".join(
        f'<text x="{x + _BOX_WIDTH / 2}" y="{first + 16 * i}" text-anchor="middle" font-size="13" '
        f'fill="{_INK}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return (
        f'<g><title>{escape(name)}</title><rect x="{x}" y="{y}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" '
        f'rx="8" fill="{_BOX}" stroke="{_LINE}"/>{texts}</g>'
    )


def _arrow(link: Link, places: Mapping[str, tuple[float, float]], lane: float, along: float) -> str:
    """To the next column a curve with its label at `along` of it; within a column a bow at its right; else,
    backwards or past a column, a way round below all boxes, at `lane`."""
    (x1, y1), (x2, y2) = places[link.source], places[link.target]
    x1, y1, y2 = x1 + _BOX_WIDTH, y1 + _BOX_HEIGHT / 2, y2 + _BOX_HEIGHT / 2
    if lane:
        x, y = (x1 + x2) / 2, lane - 3
        way = f"M{x1} {y1 + 14}H{x1 + 18}V{lane}H{x2 - 18}V{y2 + 14}H{x2 - 2}"
    elif x2 > x1:
        bend = (x2 - x1) / 2
        x = x1 + (x2 - x1) * along
        # The curve's height there: its ends are level, as 3t^2 - 2t^3.
        y = y1 + (y2 - y1) * along * along * (3 - 2 * along) - 6
        way = f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2 - 2} {y2}"
    else:
        x, y = x1 + 34, (y1 + y2) / 2
        way = f"M{x1} {y1}C{x1 + 46} {y1} {x1 + 46} {y2} {x1 + 2} {y2}"
    text = " ".join(filter(None, [link.label, f"{link.weight:.2f}"]))
    return (
        f'<path d="{way}" fill="none" stroke="{_GREY}" '
        f'stroke-width="{1 + 3 * link.weight:.1f}" marker-end="url(#tip)"/>'
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle" font-size="11" fill="{_GREY}" '
        f'stroke="#fff" stroke-width="3" paint-order="stroke">{escape(text)}</text>'
    )


def _wrapped(name: str) -> list[str]:
    """A name in two lines at most; what does not fit is cut, and whole in the tooltip."""
    lines = [""]
    for word in name.split():
        longer = f"{lines[-1]} {word}".strip()
        if len(longer) <= _FITS or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    cut = [line if len(line) <= _FITS else line[: _FITS - 1] + "…" for line in lines[:2]]
    if len(lines) > 2:
        cut[1] = cut[1][: _FITS - 1] + "…"
    return cut


def number(value: float) -> str:
    """A number as people read it: at most four digits that count, thousands apart."""
    if not math.isfinite(value):
        return "no value"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
