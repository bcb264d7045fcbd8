"""A table of text and numbers, printed for terminals, documents, publications and programs."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | float | int | bool | None

#: Significant digits of a number in a table that people read.
_DIGITS = 5
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


@dataclass(frozen=True)
class Table:
    """Rows of cells below named columns; every row is as long as `columns`."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    notes: tuple[str, ...] = field(default=())

    def records(self) -> list[dict[str, Cell]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def shown(cell: Cell) -> str:
    """A cell as people read it, on one line, with control characters made visible."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return str(cell)
    if isinstance(cell, float):
        return f"{cell:.{_DIGITS}g}"
    return visible(cell)


def visible(text: str) -> str:
    """Text without anything that moves a terminal's cursor or hides what follows."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def as_text(table: Table, width: int | None = None) -> str:
    """Columns aligned for a terminal; numbers to the right. `width`: longest cell, the rest is cut off."""
    cells = [list(table.columns), *([shown(c) for c in row] for row in table.rows)]
    if width:
        cells = [[c if _columns(c) <= width else f"{_cut(c, width - 3)}..." for c in row] for row in cells]
    numbers = [bool(column) and all(_numeric(c) for c in column) for column in zip(*table.rows, strict=True)]
    widths = [max(_columns(c) for c in column) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [
            " " * (w - _columns(c)) + c if right else c + " " * (w - _columns(c))
            for c, w, right in zip(row, widths, numbers or [False] * len(row), strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join([*([table.title] if table.title else ()), *lines, *table.notes])


def as_markdown(table: Table) -> str:
    """A table of GitHub's Markdown; nothing in a cell is taken for markup."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rule = ["---:" if all(_numeric(c) for c in column) else "---" for column in _by_column(table)]
    body = [line([_markdown(shown(c)) for c in row]) for row in table.rows]
    head = [f"**{_markdown(table.title)}**", ""] if table.title else []
    notes = ["", *(f"{_markdown(n)}  " for n in table.notes)] if table.notes else []
    return "\n".join([*head, line([_markdown(c) for c in table.columns]), line(rule), *body, *notes])


def as_latex(table: Table) -> str:
    r"""A `tabular` with the rules of the package booktabs."""
    layout = "".join("r" if all(_numeric(c) for c in column) else "l" for column in _by_column(table))

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    lines = [
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        line([_latex(c) for c in table.columns]),
        r"\midrule",
        *(line([_latex(shown(c)) for c in row]) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if table.title or table.notes:
        text = " ".join(filter(None, (table.title, *table.notes)))
        lines = [r"\begin{table}", r"\centering", *lines, rf"\caption{{{_latex(text)}}}", r"\end{table}"]
    return "\n".join(lines)


def as_csv(table: Table) -> str:
    """RFC 4180 with full precision; an empty field for what is not there."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([exact(c) for c in row] for row in table.rows)
    return text.getvalue().rstrip("\n")


def as_json(table: Table) -> str:
    """A list of objects. JSON has no NaN and no infinities: they are the strings of Protobuf's JSON."""
    return json.dumps(
        [{k: plain(v) for k, v in r.items()} for r in table.records()], indent=2, ensure_ascii=False
    )


def as_html(table: Table) -> str:
    """A `table` element; everything in it is escaped."""
    head = "".join(f"<th>{html.escape(visible(c))}</th>" for c in table.columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if _numeric(c) else ''}>{html.escape(shown(c))}</td>" for c in row)
        + "</tr>\n"
        for row in table.rows
    )
    caption = f"<caption>{html.escape(visible(table.title))}</caption>" if table.title else ""
    notes = "".join(f"<p class=note>{html.escape(visible(n))}</p>\n" for n in table.notes)
    return f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>\n{notes}"


#: By the names that commands take.
FORMATS = {
    "text": as_text,
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
    "json": as_json,
    "html": as_html,
}


def exact(cell: Cell) -> str:
    """A cell for programs: every digit; empty for what is not there."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    return repr(cell) if isinstance(cell, float) else str(cell)


def plain(value: Any) -> Any:
    """A value as JSON has it: not-a-number and infinities as `NaN`, `Infinity`, `-Infinity` in quotes."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _by_column(table: Table) -> list[tuple[Cell, ...]]:
    return list(zip(*table.rows, strict=True)) if table.rows else [("",)] * len(table.columns)


def _numeric(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool))


def _columns(text: str) -> int:
    """How wide a terminal shows it."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _cut(text: str, width: int) -> str:
    while _columns(text) > width:
        text = text[:-1]
    return text


def _markdown(text: str) -> str:
    kept = html.escape(visible(text), quote=False)
    return "".join(f"\\{c}" if c in "\\|*_`[]~" else c for c in kept)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in visible(text))
