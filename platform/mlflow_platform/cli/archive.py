"""`archive create | list | verify | restore`: thin over `mlflow_platform.archive`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlflow_platform.cli import output
from mlflow_platform.cli.arguments import PATHS
from mlflow_platform.cli.data import opened, progress
from mlflow_platform.cli.stores import json_option, secrets_option, server_option
from mlflow_platform.errors import EXIT_DIFFERENCES, EXIT_ERROR, EXIT_OK, BadInput

if TYPE_CHECKING:
    from mlflow_platform.adapters.object_store import ObjectStore
    from mlflow_platform.archive.manifest import Manifest
    from mlflow_platform.archive.restore import Restored

F = TypeVar("F", bound=Callable[..., Any])

destination_argument = click.argument("destination")
documents_option = click.option(
    "--documents",
    "paths",
    multiple=True,
    type=PATHS,
    metavar="PATH",
    help="Files or folders with the TrackingServer document.",
)


def common_options(command: F) -> F:
    """Options of every `archive` command."""
    for option in (json_option, secrets_option, server_option, documents_option):
        command = option(command)
    return command


@click.group("archive")
def archive_command() -> None:
    """Archive runs with their artifacts as Parquet and objects; list, verify and restore archives.

    DESTINATION is `s3://BUCKET/PREFIX`, reached with the keys of the server's artifacts, or a folder. Where
    database and artifact stores are is found as for `mlplatform retention`. docs/archive.md has more.
    """


@archive_command.command("create")
@destination_argument
@click.option("--experiment", "experiments", multiple=True, metavar="NAME|ID", help="All of it.")
@click.option("--run", "runs", multiple=True, metavar="ID", help="A run, with its logged models and traces.")
@click.option("--dry-run", is_flag=True, help="Only count; exit code 2 where there is something.")
@common_options
def create_command(
    destination: str,
    experiments: tuple[str, ...],
    runs: tuple[str, ...],
    dry_run: bool,
    paths: tuple[Path, ...],
    server: str,
    secrets: str | None,
    as_json: bool,
) -> int:
    """Archive experiments or runs; nothing is deleted. RetentionPolicy documents archive what they purge.

    All of it is read back and compared before the archive counts as one. Exit code 1: something changed
    meanwhile or could not be reached, and the archive holds what it says without that.

    \b
    Examples:
      mlplatform archive create /backup/mlflow --experiment sweeps/old
      mlplatform archive create s3://archive/mlflow --run 0f3d9c1e5a7b4d2f8e6c9a1b3d5f7e90 --json
    """
    from mlflow_platform.archive.create import archive

    if not experiments and not runs:
        raise BadInput("nothing is chosen", remedy="name --experiment or --run")
    with (
        opened(paths, (), server, secrets, needs_policies=False) as site,
        closing(site.store(destination)) as store,
        progress(quiet=as_json) as (say, _),
    ):
        made = archive(
            site.database, site.roots, store, experiments=experiments, runs=runs, dry=dry_run, say=say
        )
    missing = [{"kind": kind, "id": own, "why": why} for (kind, own), why in sorted(made.missing.items())]
    if as_json:
        output.print_json({**_summary(made.manifest), "dryRun": dry_run, "problems": missing})
    else:
        click.echo(f"{'Would archive' if dry_run else 'Archived'} {_text(made.manifest)}")
        for one in missing:
            click.echo(f"{output.style('problem:', 'red')} {one['kind']} {one['id']}: {one['why']}", err=True)
    if missing:
        return EXIT_ERROR
    return EXIT_DIFFERENCES if dry_run and made.manifest.counts else EXIT_OK


@archive_command.command("list")
@destination_argument
@common_options
def list_command(
    destination: str, paths: tuple[Path, ...], server: str, secrets: str | None, as_json: bool
) -> None:
    """List the archives of a destination, oldest first, and those that were never finished.

    \b
    Example:
      mlplatform archive list s3://archive/mlflow --json | jq '.archives[].id'
    """
    from mlflow_platform.archive import manifest

    with _store(destination, paths, server, secrets) as store:
        found = [manifest.read(store, one) for one in manifest.ids(store)]
        unfinished = manifest.unfinished(store)
    if as_json:
        output.print_json({"archives": [_summary(one) for one in found], "unfinished": unfinished})
        return
    for one in found:
        click.echo(_text(one))
    for name in unfinished:
        click.echo(f"{name}: not finished; under way, or of a process that was killed")


@archive_command.command("verify")
@destination_argument
@click.argument("archives", nargs=-1, metavar="[ID]...")
@common_options
def verify_command(
    destination: str,
    archives: tuple[str, ...],
    paths: tuple[Path, ...],
    server: str,
    secrets: str | None,
    as_json: bool,
) -> int:
    """Read archives whole, all of a destination by default, and compare every digest.

    Exit code 0: all is as it was written, 1: something is missing or changed, by name.

    \b
    Example:
      mlplatform archive verify /backup/mlflow
    """
    from mlflow_platform.archive import manifest
    from mlflow_platform.archive.manifest import Corrupted
    from mlflow_platform.archive.verify import verify

    problems: list[str] = []
    count = 0
    with _store(destination, paths, server, secrets) as store, progress(quiet=as_json) as (say, step):
        for name in archives or manifest.ids(store):
            say(name)
            count += 1
            try:
                problems += verify(store, manifest.read(store, name), step)
            except Corrupted as error:
                problems.append(error.problem.what)
    if as_json:
        output.print_json({"archives": count, "problems": problems})
    else:
        for problem in problems:
            click.echo(f"{output.style('problem:', 'red')} {problem}", err=True)
        click.echo(f"{count:,} archives, {len(problems):,} problems.")
    return EXIT_ERROR if problems else EXIT_OK


@archive_command.command("restore")
@destination_argument
@click.argument("archives", nargs=-1, metavar="[ID]...")
@click.option("--run", "runs", multiple=True, metavar="RUN", help="Only this run, with its logged models.")
@click.option("--dry-run", is_flag=True, help="Check and count only; exit code 2 where something would come.")
@common_options
def restore_command(
    destination: str,
    archives: tuple[str, ...],
    runs: tuple[str, ...],
    dry_run: bool,
    paths: tuple[Path, ...],
    server: str,
    secrets: str | None,
    as_json: bool,
) -> int:
    """Bring archives back, by their ids, or single runs from the newest archive that holds them.

    Runs keep their ids, values and times, and come back active. What exists and is the same is passed over;
    what exists and differs stops it before anything is written. Safe to interrupt: run it again.

    \b
    Examples:
      mlplatform archive restore /backup/mlflow 20260102T030405123456Z-0a1b2c3d
      mlplatform archive restore s3://archive/mlflow --run 0f3d9c1e5a7b4d2f8e6c9a1b3d5f7e90
    """
    from mlflow_platform.archive import manifest
    from mlflow_platform.archive.find import holding
    from mlflow_platform.archive.restore import restore

    if not archives and not runs:
        raise BadInput(
            "nothing is chosen", remedy="name ids from `mlplatform archive list`, or runs with --run"
        )
    done: list[Restored] = []
    with (
        opened(paths, (), server, secrets, needs_policies=False) as site,
        closing(site.store(destination)) as store,
        progress(quiet=as_json) as (say, _),
    ):
        for name, some in holding(store, archives, runs).items():
            one = manifest.read(store, name)
            done.append(restore(site.database, site.roots, store, one, runs=some, dry=dry_run, say=say))
    if as_json:
        output.print_json({"dryRun": dry_run, "archives": [one.as_json() for one in done]})
    else:
        for restored in done:
            _print(restored)
    return EXIT_DIFFERENCES if dry_run and any(r.things.total() for r in done) else EXIT_OK


@contextmanager
def _store(
    destination: str, paths: Sequence[Path], server: str, secrets: str | None
) -> Iterator[ObjectStore]:
    """The destination alone: a folder needs no server."""
    if not destination.startswith("s3://"):
        from mlflow_platform.adapters.files import FileStore

        yield FileStore(destination)
        return
    with (
        opened(tuple(paths), (), server, secrets, needs_policies=False) as site,
        closing(site.store(destination)) as store,
    ):
        yield store


def _summary(one: Manifest) -> dict[str, Any]:
    return {key: value for key, value in one.as_json().items() if key not in ("files", "sha256", "format")}


def _text(one: Manifest) -> str:
    names = [experiment["name"] for experiment in one.experiments]
    what = ", ".join(f"{one.counts.get(table, 0):,} {name}" for table, name in _NAMES.items())
    return (
        f"{output.style(one.id, 'blue')}: {what}, {one.objects:,} objects, {one.bytes:,} bytes"
        f" of {', '.join(names[:3])}{f' and {len(names) - 3} more experiments' if len(names) > 3 else ''}"
    )


_NAMES = {
    "runs": "runs",
    "logged_models": "logged models",
    "trace_info": "traces",
    "model_versions": "model versions",
    "metrics": "metric values",
}


def _print(one: Restored) -> None:
    kinds = {"run": "runs", "model": "logged models", "trace": "traces", "version": "model versions"}
    came = ", ".join(f"{one.things[kind]:,} {name}" for kind, name in kinds.items())
    there = ", ".join(f"{one.there[kind]:,} {name}" for kind, name in kinds.items() if one.there[kind])
    click.echo(
        f"{output.style(one.archive, 'blue')}: {came} {'would come' if one.dry else 'came'} back, "
        f"{one.objects:,} objects, {one.bytes:,} bytes"
        + (f"; there already: {there}, {one.objects_there:,} objects" if there else "")
    )
    for table, count in one.left_out.items():
        if count:
            output.note(
                f"{count:,} rows of {table} were left out: what they belong to is gone, or newer here"
            )
