"""Tables and figures as one document: Markdown beside its pictures, or one page of HTML."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_platform.client.analysis import comparison, plots, reading, tables
from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

    from mlflow_platform.client.analysis.reading import Run
    from mlflow_platform.client.analysis.tables import Table

#: Formats of a report, by the suffix of its file.
SUFFIXES = (".md", ".html")
#: Metrics and runs that a report shows when none are named.
_METRICS, _DRAWN = 6, 20
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
th, td {{ border-bottom: 1px solid #ccc; padding: .25rem .7rem; text-align: left; vertical-align: top }}
td.n {{ text-align: right; font-variant-numeric: tabular-nums }}
img {{ max-width: 100% }} .note {{ color: #555 }}
</style></head>
<body><h1>{title}</h1>
{body}</body></html>
"""


@dataclass(frozen=True)
class Section:
    """A heading with a text, a table and a figure, each of which may be missing."""

    heading: str
    text: str = ""
    table: Table | None = None
    figure: Figure | None = None


def compared(
    client: MlflowClient,
    runs: Sequence[Run],
    table: Table,
    metrics: Sequence[str] = (),
    *,
    least: bool = False,
) -> list[Section]:
    """Runs side by side, and a figure of each metric: curves where it has steps, else bars of the best 20.

    `metrics`: without any, the first six by name that the runs have.
    """
    places = ", ".join(sorted({r.experiment for r in runs}))
    sections = [Section("Runs", f"{len(runs)} runs of {places}.", table)]
    for metric in metrics or sorted({k for r in runs for k in r.metrics})[:_METRICS]:
        drawn = comparison.ranked(runs, metric, least=least)[:_DRAWN]
        points = list(reading.history(client, [r for r in drawn if metric in r.metrics], [metric]))
        stepped = len({p.step for p in points}) > 1
        figure = plots.curves(drawn, points, metric) if stepped else plots.bars(drawn, metric)
        sections.append(Section(metric, figure=figure))
    return sections


def write(file: Path, title: str, sections: Sequence[Section]) -> list[Path]:
    """Write a report in the format of the file's suffix; every file that was written, the report last.

    Markdown has its figures as SVG files beside it, named after it. Raises `BadInput` for another suffix.
    """
    if file.suffix not in SUFFIXES:
        raise BadInput(
            f"{file.name}: no such format of reports", remedy=f"end the name with {' or '.join(SUFFIXES)}"
        )
    written = []
    if file.suffix == ".html":
        text = as_html(title, sections)
    else:
        names = []
        for section in sections:
            if section.figure is not None:
                picture = file.with_name(f"{file.stem}-{_slug(section.heading)}.svg")
                plots.write(section.figure, picture)
                written.append(picture)
            names.append(picture.name if section.figure is not None else "")
        text = as_markdown(title, sections, names)
    file.write_text(text, encoding="utf-8")
    return [*written, file]


def as_html(title: str, sections: Sequence[Section]) -> str:
    """One page with its figures inside; it loads nothing and runs no script."""
    parts = []
    for section in sections:
        parts.append(f"<h2>{html.escape(tables.visible(section.heading))}</h2>\n")
        if section.text:
            parts.append(f"<p>{html.escape(tables.visible(section.text))}</p>\n")
        if section.table is not None:
            parts.append(tables.as_html(section.table))
        if section.figure is not None:
            data = base64.b64encode(plots.rendered(section.figure, "svg")).decode("ascii")
            name = html.escape(tables.visible(section.heading))
            parts.append(f'<p><img alt="{name}" src="data:image/svg+xml;base64,{data}"></p>\n')
    return _PAGE.format(title=html.escape(tables.visible(title)), body="".join(parts))


def as_markdown(title: str, sections: Sequence[Section], pictures: Sequence[str]) -> str:
    """A document; `pictures` holds the file name of each section's figure, or nothing."""
    parts = [f"# {tables.visible(title)}"]
    for section, picture in zip(sections, pictures, strict=True):
        parts.append(f"## {tables.visible(section.heading)}")
        if section.text:
            parts.append(tables.visible(section.text))
        if section.table is not None:
            parts.append(tables.as_markdown(section.table))
        if picture:
            parts.append(f"![{tables.visible(section.heading)}]({picture})")
    return "\n\n".join(parts) + "\n"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "figure"
