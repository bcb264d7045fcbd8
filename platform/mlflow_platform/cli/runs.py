"""`mlplatform runs`: what was logged, listed, searched, compared, exported and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlflow_platform.cli import output
from mlflow_platform.cli.analysis import (
    LATEST_FIRST,
    check_place,
    experiment_option,
    filter_option,
    format_option,
    named_or_found,
    open_client,
    print_table,
    search,
    server_option,
)
from mlflow_platform.cli.arguments import Number
from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    from mlflow_platform.client.analysis.reading import Run
    from mlflow_platform.client.analysis.statistics import Test
    from mlflow_platform.client.analysis.tables import Table

#: Plain flags are options that the command does not know.
_PLAIN = {"ignore_unknown_options": True, "allow_extra_args": True}
#: Runs that are compared without being named.
_MOST = 50

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
    found = reading.runs(client, of, order=LATEST_FIRST, limit=limit)
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
    wanted = search(tracking_uri, names, where, context.args)
    found = list(wanted.runs(order_by or LATEST_FIRST, limit))
    print_table(_listed(found, [*dict.fromkeys([*(c.key for c in wanted.conditions), *show])]), layout)


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
    from mlflow_platform.client.analysis import comparison

    client, found = named_or_found(tracking_uri, run_ids, names, where, _MOST)
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
    if report is None:
        print_table(table, layout)
        return
    from mlflow_platform.client.analysis.report import compared, write

    sections = compared(client, found, table, [best] if best else metrics, least=least)
    with output.using(report):
        for written in write(report, "Comparison of runs", sections):
            click.echo(f"{written} written", err=True)


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
    from mlflow_platform.client.analysis import reading

    check_place("METRIC", metric)
    wanted = search(tracking_uri, names, where, context.args)
    found = reading.best(wanted.client, wanted.of, metric, least=least, where=wanted.filter())
    print_table(_listed([found], [metric]), layout)


@runs_command.command("summary", context_settings=_PLAIN)
@click.argument("metric")
@click.option("--by", required=True, help="The param or tag that says which group a run is of.")
@click.option(
    "--stages", help="The groups are stages, in this order: a,b,c. Prints the changes between them."
)
@click.option("--rank", is_flag=True, help="Tests of ranks (Mann-Whitney U) instead of means (Welch's t).")
@click.option("--level", type=Number(0.5, 0.999), default=0.95, show_default=True, help="Of the intervals.")
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

    check_place("METRIC", metric)
    found = list(search(tracking_uri, names, where, context.args).runs(order=()))
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

    check_place("FILE", str(file))
    exporting.check(file)
    wanted = search(tracking_uri, names, where, context.args)
    found = wanted.runs(("attributes.start_time ASC",))
    rows = (
        map(exporting.point_row, reading.history(wanted.client, found))
        if history
        else map(exporting.run_row, found)
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

    check_place("METRIC", metric)
    client, found = named_or_found(tracking_uri, run_ids, names, where, 20)
    drawn = (
        plots.bars(found, metric)
        if latest
        else plots.curves(found, list(reading.history(client, found, [metric])), metric, by_time=by_time)
    )
    with output.using(file):
        plots.write(drawn, file)
    click.echo(f"{file} written", err=True)


def _listed(found: list[Run], show: list[str] | None = None) -> Table:
    from mlflow_platform.client.analysis.reading import when
    from mlflow_platform.client.analysis.tables import Table

    rows = tuple(
        (r.id, r.name, r.experiment, r.status, when(r.start), r.seconds, *(r.value(k) for k in show or ()))
        for r in found
    )
    return Table(("run id", "run", "experiment", "status", "started", "seconds", *(show or ())), rows)
