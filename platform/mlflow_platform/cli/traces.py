"""`mlplatform traces`: traces searched and exported."""

from __future__ import annotations

from pathlib import Path

import click

from mlflow_platform.cli import output
from mlflow_platform.cli.analysis import (
    experiment_option,
    filter_option,
    format_option,
    open_client,
    print_table,
    server_option,
)
from mlflow_platform.cli.arguments import Number

#: Seconds: 31 years, which a database can still compare with in milliseconds.
_LONGEST = 1e9


@click.group("traces")
def traces_command() -> None:
    """Search traces.

    \b
    Examples:
      mlplatform traces search -e agents --status ERROR
      mlplatform traces search -e agents --slower-than 2.5 -o slow.parquet
    """


@traces_command.command("search")
@experiment_option
@filter_option
@click.option(
    "--status", type=click.Choice(["OK", "ERROR", "IN_PROGRESS"]), help="Only traces that ended so."
)
@click.option(
    "--slower-than", type=Number(0, _LONGEST), metavar="SECONDS", help="Only traces that took longer."
)
@click.option("--name", help="Only traces of this name.")
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many traces."
)
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Export them with their requests and responses: .csv, .json, .jsonl or .parquet.",
)
@server_option
@format_option
def search_command(
    names: tuple[str, ...],
    where: str,
    status: str | None,
    slower_than: float | None,
    name: str | None,
    limit: int,
    file: Path | None,
    tracking_uri: str | None,
    layout: str,
) -> None:
    """List traces, the latest first.

    \b
    Examples:
      mlplatform traces search -e agents --status ERROR --limit 10
      mlplatform traces search --filter "tags.tier = 'gold'" --format json
    """
    from mlflow_platform.client.analysis import exporting, filters, reading
    from mlflow_platform.client.analysis.tables import Table

    if file is not None:
        exporting.check(file)
    client = open_client(tracking_uri)
    clauses = filters.both(
        where,
        f"trace.status = '{status}'" if status else "",
        f"trace.execution_time_ms > {int(1000 * slower_than)}" if slower_than is not None else "",
        filters.trace_name(name) if name else "",
    )
    found = reading.traces(client, reading.experiments(client, names), where=clauses, limit=limit)
    if file is not None:
        with output.using(file):
            count = exporting.write(map(exporting.trace_row, found), file, exporting.TRACE)
        click.echo(f"{count} trace(s) written to {file}", err=True)
        return
    rows = tuple(
        (t.id, t.experiment, t.status, reading.when(t.start), t.milliseconds, t.request) for t in found
    )
    print_table(Table(("trace id", "experiment", "status", "started", "ms", "request"), rows), layout)
