"""What the commands that read runs and traces share: the server, the experiments, the format."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import click

from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_platform.client.analysis.filters import Condition
    from mlflow_platform.client.analysis.reading import Experiment, Run
    from mlflow_platform.client.analysis.tables import Table

FORMATS = ("text", "markdown", "latex", "csv", "json", "html")
#: An order of MLflow's `search_runs`.
LATEST_FIRST = ("attributes.start_time DESC",)
#: Cells of a table on a terminal are cut to so many columns.
_WIDTH = 40
#: These commands wait for somebody: MLflow's own defaults retry for minutes.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}


server_option = click.option(
    "--tracking-uri",
    metavar="URI",
    help="Any tracking URI of MLflow's. Default: $MLFLOW_TRACKING_URI, else the local stack.",
)
experiment_option = click.option(
    "-e",
    "--experiment",
    "names",
    multiple=True,
    help="Name or id of an experiment; may be repeated. Default: all.",
)
filter_option = click.option(
    "--filter", "where", default="", help='A filter of MLflow\'s own language, such as "metrics.loss < 1".'
)
format_option = click.option(
    "--format", "layout", type=click.Choice(FORMATS), default="text", help="Default: text."
)


def open_client(tracking_uri: str | None) -> MlflowClient:
    """A client of the server that is meant; `durable+` is left out, since reading needs no spool."""
    from mlflow_platform.cli.targets import connection

    found = connection(tracking_uri, None)
    if found.tracking_uri is None:
        raise BadInput(
            "no tracking server: none is given and no local stack is running",
            remedy="pass --tracking-uri, set MLFLOW_TRACKING_URI, or start one with `mlplatform up`",
        )
    uri = found.tracking_uri.removeprefix("durable+")
    _check_file(uri)
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    if found.username and found.password:
        os.environ["MLFLOW_TRACKING_USERNAME"] = found.username
        os.environ["MLFLOW_TRACKING_PASSWORD"] = found.password
    from mlflow import MlflowClient

    from mlflow_platform.client.analysis.reading import answered

    with answered():
        return MlflowClient(uri, uri)


def _check_file(uri: str) -> None:
    """MLflow would make a database or a folder where there is none; who reads has mistyped it."""
    parts = urlsplit(uri)
    if parts.scheme == "sqlite":
        path = unquote(uri.removeprefix("sqlite:///").split("?")[0])
    elif parts.scheme in ("", "file"):
        path = unquote(parts.path)
    else:
        return
    if path and not Path(path).exists():
        raise BadInput(
            f"there is no {path}", remedy="correct the tracking URI; sqlite:////with/four/slashes is absolute"
        )


@dataclass(frozen=True)
class Search:
    """Runs that are meant: experiments, a filter of MLflow's and plain conditions beside it."""

    client: MlflowClient
    of: list[Experiment]
    where: str
    conditions: list[Condition]

    def filter(self) -> str:
        """All conditions in MLflow's language."""
        from mlflow_platform.client.analysis import filters, reading

        return filters.both(self.where, reading.plain_filter(self.client, self.of, self.conditions))

    def runs(self, order: Sequence[str] = LATEST_FIRST, limit: int | None = None) -> Iterator[Run]:
        """The runs, a page at a time."""
        from mlflow_platform.client.analysis import reading

        return reading.runs(self.client, self.of, where=self.filter(), order=order, limit=limit)


def search(tracking_uri: str | None, names: Sequence[str], where: str, flags: Sequence[str]) -> Search:
    """What the options of a command ask for."""
    from mlflow_platform.client.analysis import reading

    client = open_client(tracking_uri)
    return Search(client, reading.experiments(client, names), where, plain_conditions(flags))


def named_or_found(
    tracking_uri: str | None, arguments: Sequence[str], names: Sequence[str], where: str, most: int
) -> tuple[MlflowClient, list[Run]]:
    """The runs whose ids begin `arguments`; without ids the latest `most` of the search."""
    from mlflow_platform.client.analysis import reading

    ids = list(itertools.takewhile(lambda a: not a.startswith("--"), arguments))
    flags = arguments[len(ids) :]
    if not ids:
        wanted = search(tracking_uri, names, where, flags)
        return wanted.client, list(wanted.runs(limit=most))
    if flags or where or names:
        raise click.UsageError("name runs by their ids or search for them, not both")
    client = open_client(tracking_uri)
    return client, reading.by_ids(client, ids)


def check_place(name: str, value: str) -> None:
    """A plain flag before an argument would be taken for it."""
    if value.startswith("--"):
        raise click.UsageError(f"{name} must come before plain flags such as {value}")


def plain_conditions(arguments: Sequence[str]) -> list[Condition]:
    """`--ontology prov --accuracy '>0.8'`, and with `=`, as conditions on the runs."""
    from mlflow_platform.client.analysis.filters import condition

    found = []
    left = iter(arguments)
    for flag in left:
        name, given, value = flag.removeprefix("--").partition("=")
        if not flag.startswith("--") or not name:
            raise click.UsageError(f"{flag!r} is neither an option nor a plain flag such as --ontology prov")
        text = value if given else next(left, None)
        if text is None:
            raise click.UsageError(f"--{name} needs a value, such as --{name} prov")
        found.append(condition(name, text))
    return found


def print_table(table: Table, layout: str, output_file: Path | None = None) -> None:
    """A table in one of `FORMATS`, on standard output or into a file."""
    from mlflow_platform.cli.output import using
    from mlflow_platform.client.analysis import tables

    if layout == "text" and output_file is None:
        click.echo(tables.as_text(table, _WIDTH))
        return
    text = tables.FORMATS[layout](table)
    if output_file is None:
        click.echo(text)
        return
    with using(output_file):
        output_file.write_text(text + "\n", encoding="utf-8")
