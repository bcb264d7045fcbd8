"""`mlplatform runs`: what was logged, listed, searched, compared, exported and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_platform.cli import output
from mlflow_platform.cli.analysis import (
    experiment_option,
    filter_option,
    format_option,
    open_client,
    plain_conditions,
    print_table,
    server_option,
)
from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_platform.client.analysis.reading import Experiment, Run
    from mlflow_platform.client.analysis.statistics import Test
    from mlflow_platform.client.analysis.tables import Table

#: Plain flags are options that the command does not know.
_PLAIN = {"ignore_unknown_options": True, "allow_extra_args": True}
#: Runs that are compared without being named.
_MOST = 50

output_option = click.option(
    "-o", "--output", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write into this file."
)
least_option = click.option("--least", is_flag=True, help="The smallest value is best, as of a loss.")


@click.group("runs")
def runs_command() -> None:
    """List, search, compare, export and draw what was logged.

    Every command takes --tracking-uri. Values of runs are printed as they were logged: take care when a CSV
    file of strangers' runs is opened in a spreadsheet.

    \b
    Examples:
      mlplatform runs list
      mlplatform runs search -e research --ontology prov --converged true
      mlplatform runs compare -e research --best accuracy
      mlplatform runs export -e research runs.parquet
    """


@runs_command.command("list")
@click.argument("experiment", required=False)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many runs.")
@server_option
@format_option
def list_command(experiment: str | None, limit: int, tracking_uri: str | None, layout: str) -> None:
    """List the experiments, or the latest runs of one EXPERIMENT.

    \b
    Examples:
      mlplatform runs list
      mlplatform runs list research --format json
    """
    from mlflow_platform.client.analysis import reading
    from mlflow_platform.client.analysis.tables import Table

    client = open_client(tracking_uri)
    if experiment is None:
        rows = tuple((e.id, e.name, reading.when(e.updated)) for e in reading.experiments(client))
        print_table(Table(("id", "experiment", "last update"), rows), layout)
        return
    of = reading.experiments(client, [experiment])
    found = reading.runs(client, of, order=["attributes.start_time DESC"], limit=limit)
    print_table(_listed(list(found)), layout)


@runs_command.command("search", context_settings=_PLAIN)
@experiment_option
@filter_option
@click.option(
    "--order-by", multiple=True, help='As MLflow\'s: "metrics.accuracy DESC". Default: latest first.'
)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many runs.")
@click.option("--show", multiple=True, help="A param, tag or metric to print; may be repeated.")
@server_option
@format_option
@click.pass_context
def search_command(
    context: click.Context,
    names: tuple[str, ...],
    where: str,
    order_by: tuple[str, ...],
    limit: int,
    show: tuple[str, ...],
    tracking_uri: str | None,
    layout: str,
) -> None:
    """Search runs by plain flags, by a filter of MLflow's, or both.

    Any other flag is a condition: it names a param, else a tag, else a metric of these runs. Its value may
    begin with =, !=, >, >=, <, <= or ~ (like; % is any text). true and false are 1 and 0 for metrics.

    \b
    Examples:
      mlplatform runs search -e research --ontology prov --converged true
      mlplatform runs search --accuracy '>0.8' --model '~%mini%' --show accuracy
      mlplatform runs search --filter "params.ontology = 'prov' and metrics.converged = 1"
    """
    client, of = _opened(tracking_uri, names)
    found = _found(client, of, where, context.args, list(order_by) or ["attributes.start_time DESC"], limit)
    print_table(
        _listed(found, [*dict.fromkeys([*(c.key for c in plain_conditions(context.args)), *show])]), layout
    )


@runs_command.command("compare", context_settings=_PLAIN)
@click.argument("run_ids", nargs=-1, type=click.UNPROCESSED)
@experiment_option
@filter_option
@click.option("--param", "params", multiple=True, help="Show this param. Default: those that differ.")
@click.option("--metric", "metrics", multiple=True, help="Show this metric. Default: those that differ.")
@click.option("--all", "everything", is_flag=True, help="Show also what is equal in all runs.")
@click.option("--best", metavar="METRIC", help="Sort by this metric and mark the best run.")
@least_option
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a report with figures: .html or .md.",
)
@server_option
@format_option
def compare_command(
    run_ids: tuple[str, ...],
    names: tuple[str, ...],
    where: str,
    params: tuple[str, ...],
    metrics: tuple[str, ...],
    everything: bool,
    best: str | None,
    least: bool,
    report: Path | None,
    tracking_uri: str | None,
    layout: str,
) -> None:
    """Put runs side by side: RUN_IDS, or the latest 50 that are found as by `runs search`.

    \b
    Examples:
      mlplatform runs compare 0f3a... 77c1... --all
      mlplatform runs compare -e research --ontology prov --best accuracy
      mlplatform runs compare -e research --best loss --least --report comparison.html
    """
    from mlflow_platform.client.analysis import comparison, reading

    ids = _before_flags(run_ids)
    flags = list(run_ids[len(ids) :])
    client, of = _opened(tracking_uri, names)
    if ids:
        if flags or where or names:
            raise click.UsageError("name runs by their ids or search for them, not both")
        found = reading.by_ids(client, ids)
    else:
        found = _found(client, of, where, flags, ["attributes.start_time DESC"], _MOST)
    if not found:
        raise BadInput("no run is found", remedy="correct the filter; see `mlplatform runs list`")
    table = comparison.side_by_side(
        found,
        params=params or ([] if metrics else None),
        metrics=metrics or ([] if params else None),
        everything=everything,
        best=best,
        least=least,
    )
    if report is not None:
        _write_report(client, found, table, [best] if best else list(metrics), report, least=least)
    else:
        print_table(table, layout)


@runs_command.command("best", context_settings=_PLAIN)
@click.argument("metric")
@least_option
@experiment_option
@filter_option
@server_option
@format_option
@click.pass_context
def best_command(
    context: click.Context,
    metric: str,
    least: bool,
    names: tuple[str, ...],
    where: str,
    tracking_uri: str | None,
    layout: str,
) -> None:
    """Print the run with the best METRIC; NaN is never best, of equals the first wins.

    \b
    Examples:
      mlplatform runs best accuracy -e research --ontology prov
      mlplatform runs best loss --least --format json
    """
    from mlflow_platform.client.analysis import filters, reading

    _check_place("METRIC", metric)
    client, of = _opened(tracking_uri, names)
    plain = reading.plain_filter(client, of, plain_conditions(context.args))
    found = reading.best(client, of, metric, least=least, where=filters.both(where, plain))
    print_table(_listed([found], [metric]), layout)


@runs_command.command("summary", context_settings=_PLAIN)
@click.argument("metric")
@click.option("--by", required=True, help="The param or tag that says which group a run is of.")
@click.option(
    "--stages", help="The groups are stages, in this order: a,b,c. Prints the changes between them."
)
@click.option("--rank", is_flag=True, help="Tests of ranks (Mann-Whitney U) instead of means (Welch's t).")
@click.option(
    "--level", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True, help="Of the intervals."
)
@click.option(
    "--figure", type=click.Path(dir_okay=False, path_type=Path), help="Draw it, too: .svg, .png or .pdf."
)
@experiment_option
@filter_option
@server_option
@format_option
@click.pass_context
def summary_command(
    context: click.Context,
    metric: str,
    by: str,
    stages: str | None,
    rank: bool,
    level: float,
    figure: Path | None,
    names: tuple[str, ...],
    where: str,
    tracking_uri: str | None,
    layout: str,
) -> None:
    """Print n, mean, deviation and confidence interval of METRIC by groups of runs, and test the differences.

    P-values are Holm-corrected where there are several.

    \b
    Examples:
      mlplatform runs summary accuracy --by ontology -e research --format latex
      mlplatform runs summary accuracy --by stage --stages easy,medium,hard
      mlplatform runs summary accuracy --by memory_strategy --rank
    """
    from mlflow_platform.client.analysis import comparison, curriculum, plots

    _check_place("METRIC", metric)
    client, of = _opened(tracking_uri, names)
    found = list(_search(client, of, where, context.args, [], None))
    kind: Test = "rank" if rank else "mean"
    if stages is not None:
        groups = curriculum.stages(found, by, metric, [s.strip() for s in stages.split(",") if s.strip()])
        printed = [curriculum.progress(groups, by=by, metric=metric, test=kind, level=level)]
    else:
        groups = dict(sorted(comparison.grouped(found, by, metric).items()))
        printed = [comparison.summarised(groups, by=by, metric=metric, level=level)]
        if len(groups) > 1:
            printed.append(comparison.contrasted(groups, metric=metric, test=kind, level=level))
    if layout == "json":
        from mlflow_platform.client.analysis.tables import plain

        keys = ("groups", "differences")
        output.print_json(
            {
                k: [{n: plain(v) for n, v in r.items()} for r in t.records()]
                for k, t in zip(keys, printed, strict=False)
            }
        )
    else:
        for place, table in enumerate(printed):
            if place:
                click.echo()
            print_table(table, layout)
    if figure is not None:
        with output.using(figure):
            plots.write(plots.intervals(groups, metric, ordered=stages is not None, level=level), figure)


@runs_command.command("export", context_settings=_PLAIN)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--history", is_flag=True, help="Write every logged value of the metrics instead, a row a value."
)
@experiment_option
@filter_option
@server_option
@click.pass_context
def export_command(
    context: click.Context,
    file: Path,
    history: bool,
    names: tuple[str, ...],
    where: str,
    tracking_uri: str | None,
) -> None:
    """Export runs to FILE: .csv, .json, .jsonl or .parquet, whole or not at all.

    JSON has no NaN and no infinities: they are written as "NaN", "Infinity" and "-Infinity".

    \b
    Examples:
      mlplatform runs export -e research runs.csv
      mlplatform runs export -e research --history metrics.parquet
    """
    from mlflow_platform.client.analysis import exporting, reading

    _check_place("FILE", str(file))
    exporting.check(file)
    client, of = _opened(tracking_uri, names)
    found = _search(client, of, where, context.args, ["attributes.start_time ASC"], None)
    rows = (
        map(exporting.point_row, reading.history(client, found)) if history else map(exporting.run_row, found)
    )
    with output.using(file):
        count = exporting.write(rows, file, exporting.POINT if history else exporting.RUN)
    click.echo(f"{count} {'value(s)' if history else 'run(s)'} written to {file}", err=True)


@runs_command.command("plot", context_settings=_PLAIN)
@click.argument("metric")
@click.argument("run_ids", nargs=-1, type=click.UNPROCESSED)
@click.option("--time", "by_time", is_flag=True, help="Over seconds instead of steps.")
@click.option("--latest", is_flag=True, help="Bars of the latest values instead of curves.")
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="A file: .svg, .png or .pdf.",
)
@experiment_option
@filter_option
@server_option
def plot_command(
    metric: str,
    run_ids: tuple[str, ...],
    by_time: bool,
    latest: bool,
    file: Path,
    names: tuple[str, ...],
    where: str,
    tracking_uri: str | None,
) -> None:
    """Draw METRIC of RUN_IDS, or of the latest 20 runs that are found as by `runs search`.

    \b
    Examples:
      mlplatform runs plot loss -e research -o loss.svg
      mlplatform runs plot accuracy 0f3a... 77c1... --latest -o accuracy.png
    """
    from mlflow_platform.client.analysis import plots, reading

    _check_place("METRIC", metric)
    ids = _before_flags(run_ids)
    flags = list(run_ids[len(ids) :])
    client, of = _opened(tracking_uri, names)
    if ids and (flags or where or names):
        raise click.UsageError("name runs by their ids or search for them, not both")
    found = (
        reading.by_ids(client, ids)
        if ids
        else _found(client, of, where, flags, ["attributes.start_time DESC"], 20)
    )
    drawn = (
        plots.bars(found, metric)
        if latest
        else plots.curves(found, list(reading.history(client, found, [metric])), metric, by_time=by_time)
    )
    with output.using(file):
        plots.write(drawn, file)
    click.echo(f"{file} written", err=True)


def _check_place(name: str, value: str) -> None:
    """A plain flag before an argument would be taken for it."""
    if value.startswith("--"):
        raise click.UsageError(f"{name} must come before plain flags such as {value}")


def _before_flags(arguments: tuple[str, ...]) -> list[str]:
    found = []
    for argument in arguments:
        if argument.startswith("--"):
            break
        found.append(argument)
    return found


def _opened(tracking_uri: str | None, names: tuple[str, ...]) -> tuple[MlflowClient, list[Experiment]]:
    from mlflow_platform.client.analysis import reading

    client = open_client(tracking_uri)
    return client, reading.experiments(client, names)


def _search(
    client: MlflowClient,
    of: list[Experiment],
    where: str,
    flags: list[str],
    order: list[str],
    limit: int | None,
) -> Any:
    from mlflow_platform.client.analysis import filters, reading

    plain = reading.plain_filter(client, of, plain_conditions(flags))
    return reading.runs(client, of, where=filters.both(where, plain), order=order, limit=limit)


def _found(
    client: MlflowClient, of: list[Experiment], where: str, flags: list[str], order: list[str], limit: int
) -> list[Run]:
    return list(_search(client, of, where, flags, order, limit))


def _listed(found: list[Run], show: list[str] | None = None) -> Table:
    from mlflow_platform.client.analysis.reading import when
    from mlflow_platform.client.analysis.tables import Table

    rows = tuple(
        (r.id, r.name, r.experiment, r.status, when(r.start), r.seconds, *(r.value(k) for k in show or ()))
        for r in found
    )
    return Table(("run id", "run", "experiment", "status", "started", "seconds", *(show or ())), rows)


def _write_report(
    client: MlflowClient, found: list[Run], table: Table, metrics: list[str], file: Path, *, least: bool
) -> None:
    from mlflow_platform.client.analysis import comparison, plots, reading, report

    sections = [
        report.Section(
            "Runs", f"{len(found)} runs of {', '.join(sorted({r.experiment for r in found}))}.", table
        )
    ]
    for metric in metrics or sorted({k for r in found for k in r.metrics})[:6]:
        drawn = comparison.ranked(found, metric, least=least)[:20]
        points = list(reading.history(client, [r for r in drawn if metric in r.metrics], [metric]))
        stepped = len({p.step for p in points}) > 1
        figure = plots.curves(drawn, points, metric) if stepped else plots.bars(drawn, metric)
        sections.append(report.Section(metric, figure=figure))
    with output.using(file):
        for written in report.write(file, "Comparison of runs", sections):
            click.echo(f"{written} written", err=True)
