"""What the commands that read runs and traces share: the server, the experiments, the format."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import click

from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_platform.client.analysis.filters import Condition
    from mlflow_platform.client.analysis.tables import Table

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = ("text", "markdown", "latex", "csv", "json", "html")
#: Cells of a table on a terminal are cut to so many columns.
_WIDTH = 40
#: These commands wait for somebody: MLflow's own defaults retry for minutes.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}


def server_option(command: F) -> F:
    option: Callable[[F], F] = click.option(
        "--tracking-uri",
        metavar="URI",
        help="Any tracking URI of MLflow's. Default: $MLFLOW_TRACKING_URI, else the local stack.",
    )
    return option(command)


def experiment_option(command: F) -> F:
    option: Callable[[F], F] = click.option(
        "-e",
        "--experiment",
        "names",
        multiple=True,
        help="Name or id of an experiment; may be repeated. Default: all.",
    )
    return option(command)


def filter_option(command: F) -> F:
    option: Callable[[F], F] = click.option(
        "--filter",
        "where",
        default="",
        help='A filter of MLflow\'s own language, such as "metrics.loss < 1".',
    )
    return option(command)


def format_option(command: F) -> F:
    option: Callable[[F], F] = click.option(
        "--format", "layout", type=click.Choice(FORMATS), default="text", help="Default: text."
    )
    return option(command)


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


def plain_conditions(arguments: list[str]) -> list[Condition]:
    """`--ontology prov --accuracy '>0.8'`, and with `=`, as conditions on the runs."""
    from mlflow_platform.client.analysis.filters import condition

    found = []
    left = list(arguments)
    while left:
        flag = left.pop(0)
        name, given, value = flag.removeprefix("--").partition("=")
        if not flag.startswith("--") or not name:
            raise click.UsageError(f"{flag!r} is neither an option nor a plain flag such as --ontology prov")
        if not given:
            if not left:
                raise click.UsageError(f"--{name} needs a value, such as --{name} prov")
            value = left.pop(0)
        found.append(condition(name, value))
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
