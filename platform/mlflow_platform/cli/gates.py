"""`mlplatform gates`: targets for a run's metrics, checked in a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_platform.cli.analysis import (
    experiment_option,
    filter_option,
    format_option,
    open_client,
    print_table,
    server_option,
)
from mlflow_platform.errors import EXIT_DIFFERENCES, EXIT_OK, BadDocuments, BadInput, Location, Problem

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_platform.client.analysis.gates import Gate
    from mlflow_platform.client.analysis.reading import Run


@click.group("gates")
def gates_command() -> None:
    """Check a run against declared targets, and move an alias when all are met.

    \b
    Examples:
      mlplatform gates check gates.yaml --run 0f3a...
      mlplatform gates check gates.yaml -e training --model qa --alias champion
    """


@gates_command.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--run", "run_id", help="The run to check. Default: the latest finished one that is found.")
@experiment_option
@filter_option
@click.option(
    "--model", help="The registered model whose alias moves to the run's version when all gates pass."
)
@click.option("--alias", help="The alias to move.")
@server_option
@format_option
def check_command(
    file: Path,
    run_id: str | None,
    names: tuple[str, ...],
    where: str,
    model: str | None,
    alias: str | None,
    tracking_uri: str | None,
    layout: str,
) -> int:
    """Compare a run's metrics with the targets of FILE. Exit code 0: all are met, 2: some are not.

    FILE has one mapping, `gates`, of metrics to comparisons such as "> 0.80". A missing metric and NaN meet
    nothing.

    \b
    Examples:
      mlplatform gates check gates.yaml --run 0f3a...
      mlplatform gates check gates.yaml -e training --model qa --alias champion
    """
    from mlflow_platform.client.analysis import gates, reading

    if (model is None) != (alias is None):
        raise click.UsageError("--model and --alias belong together")
    if run_id and (names or where):
        raise click.UsageError("--run names one run: --experiment and --filter search for one")
    wanted = read_gates(file)
    client = open_client(tracking_uri)
    run = reading.by_ids(client, [run_id])[0] if run_id else _latest(client, names, where)
    version = _version(client, model, run) if model else None  # before the verdict: a typo is not a pass
    table = gates.judged(wanted, run.metrics)
    passed = gates.met(wanted, run.metrics)
    print_table(table, layout)
    if passed and model and alias and version:
        with reading.answered():
            client.set_registered_model_alias(model, alias, version)
        click.echo(f"{model}@{alias} is version {version} now", err=True)
    failed = sum(not g.passed(run.metrics.get(g.metric)) for g in wanted)
    text = "all gates are met" if passed else f"{failed} of {len(wanted)} gates are not met"
    click.echo(f"{run.name} ({run.id}): {text}", err=True)
    return EXIT_OK if passed else EXIT_DIFFERENCES


def _latest(client: MlflowClient, names: tuple[str, ...], where: str) -> Run:
    from mlflow_platform.client.analysis import filters, reading

    clauses = filters.both("attributes.status = 'FINISHED'", where)
    of = reading.experiments(client, names)
    for found in reading.runs(client, of, where=clauses, order=["attributes.start_time DESC"], limit=1):
        return found
    raise BadInput(
        "no finished run is found", remedy="name one with --run, or correct --experiment and --filter"
    )


def _version(client: MlflowClient, model: str, run: Run) -> str:
    """The latest version of the model that was made from the run. Raises `BadInput` where there is none."""
    from mlflow_platform.client.analysis import reading

    with reading.answered():
        found = [v for v in client.search_model_versions(f"run_id = '{run.id}'") if v.name == model]
    if not found:
        raise BadInput(
            f"the model {model!r} has no version made from the run {run.id}",
            remedy="register the run's model first, or correct --model",
        )
    return str(max(int(v.version) for v in found))


def read_gates(file: Path) -> list[Gate]:
    """The gates of a file, every mistake at once with its place. Raises `BadInput`."""
    import yaml

    from mlflow_platform.client.analysis.gates import gate
    from mlflow_platform.config import source
    from mlflow_platform.config.composer import Places, build, compose

    text = source.read(file)
    if isinstance(text, Problem):
        raise BadDocuments([text])
    places = Places(text.name)
    try:
        composed = list(compose(text.text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = Location(text.name, mark.line + 1, mark.column + 1) if mark else Location(text.name)
        raise BadInput(
            f"this is no YAML: {error.problem}", remedy="correct the syntax", where=where
        ) from error
    if len(composed) != 1:
        remedy = 'write `gates:` and below it lines such as `accuracy: "> 0.80"`'
        raise BadInput(
            f"one document is needed, not {len(composed)}", remedy=remedy, where=Location(text.name)
        )
    root = composed[0].node
    value, problems = build(root, places)
    declared: Any = value.get("gates") if isinstance(value, dict) else None
    if not isinstance(declared, dict) or not declared:
        remedy = 'write lines such as `accuracy: "> 0.80"` below `gates:`'
        problems.append(
            Problem("there is no mapping `gates` with targets", remedy, places.find(root, ("gates",)))
        )
        declared = {}
    if isinstance(value, dict):
        problems += [
            Problem(
                f"unknown field {key!r}", "only `gates` is known here", places.find(root, (key,), key=True)
            )
            for key in value
            if key != "gates"
        ]
    found = []
    for metric, target in declared.items():
        try:
            found.append(gate(metric, target))
        except BadInput as error:
            problems.append(
                Problem(error.problem.what, error.problem.remedy, places.find(root, ("gates", metric)))
            )
    if problems:
        raise BadDocuments(problems)
    return found
