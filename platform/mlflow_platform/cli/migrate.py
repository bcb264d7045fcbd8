"""`migrate`: thin over `mlflow_platform.migrate`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlflow_platform.cli import output
from mlflow_platform.cli.arguments import PATHS
from mlflow_platform.cli.data import opened, progress
from mlflow_platform.cli.stores import json_option, open_store, secrets_option, server_option
from mlflow_platform.errors import EXIT_DIFFERENCES, EXIT_ERROR, EXIT_OK

if TYPE_CHECKING:
    from mlflow_platform.migrate.report import Moved
    from mlflow_platform.migrate.staged import Staged

ACCESS_KEY, SECRET_KEY = "MLPLATFORM_SOURCE_ACCESS_KEY_ID", "MLPLATFORM_SOURCE_SECRET_ACCESS_KEY"
PASSWORD = "MLPLATFORM_SOURCE_PASSWORD"  # noqa: S105 - a variable's name


@click.command("migrate")
@click.argument("source")
@click.option(
    "--artifacts",
    multiple=True,
    metavar="[OLD=]PLACE",
    help="A folder or s3://BUCKET/PREFIX with the artifacts whose addresses begin with OLD; without OLD: "
    "where the source's server keeps what goes through its proxy.",
)
@click.option("--artifacts-endpoint", metavar="URL", help="Address of the source's S3 API. Default: AWS.")
@click.option("--artifacts-region", metavar="NAME", help="Region of the source's bucket.")
@click.option("--prefix", default="", metavar="TEXT", help="Put this before names of experiments and models.")
@click.option("--into-workspace", metavar="NAME", help="Put everything into this workspace, which is there.")
@click.option(
    "--dry-run", "--plan", "dry_run", is_flag=True, help="Only check and count; exit code 2: it would."
)
@click.option(
    "-f", "--documents", "paths", multiple=True, type=PATHS, help="Files or folders with the TrackingServer."
)
@server_option
@secrets_option
@json_option
def migrate_command(
    source: str,
    artifacts: tuple[str, ...],
    artifacts_endpoint: str | None,
    artifacts_region: str | None,
    prefix: str,
    into_workspace: str | None,
    dry_run: bool,
    paths: tuple[Path, ...],
    server: str,
    secrets: str | None,
    as_json: bool,
) -> int:
    """Move another tracking server's data into this platform: runs, traces, models, prompts and artifacts.

    SOURCE is `sqlite:////PATH/mlflow.db`, the folder of a file store, or a server's `https://USER@HOST`; it
    is only read. The server's password comes from MLPLATFORM_SOURCE_PASSWORD, the keys of the source's bucket
    from MLPLATFORM_SOURCE_ACCESS_KEY_ID and MLPLATFORM_SOURCE_SECRET_ACCESS_KEY.

    Ids stay, except those of experiments that were given out here already. What is here under the same name
    or id and differs stops it before anything is written. Interrupted, the same command goes on; run again,
    it brings what is new.

    Exit code 1: something could not come, and is listed. docs/migrate.md has more.

    \b
    Examples:
      mlplatform migrate sqlite:////srv/mlflow/mlflow.db --dry-run
      mlplatform migrate /home/us/mlruns --prefix us-
      mlplatform migrate https://admin@mlflow.example.com --json
    """
    from mlflow_platform.adapters import temporary
    from mlflow_platform.adapters.s3 import S3Login
    from mlflow_platform.migrate.homes import Wishes
    from mlflow_platform.migrate.move import Platform, move
    from mlflow_platform.migrate.places import Places, parse_moves

    login = S3Login(
        artifacts_endpoint, artifacts_region, os.environ.get(ACCESS_KEY), os.environ.get(SECRET_KEY)
    )
    moves, wishes = parse_moves(artifacts), Wishes(prefix, into_workspace)
    with (
        opened(paths, (), server, secrets, needs_policies=False) as site,
        temporary.folder("migrate") as work,
        progress(quiet=as_json) as (say, _),
    ):
        staged = _open(source, work, say)
        places = Places(
            lambda uri: open_store(uri, login), {**staged.moved, **moves}, staged.base, staged.proxied
        )
        try:
            done = move(
                Platform(site.database, site.roots, site.auth),
                staged,
                places,
                wishes,
                dry=dry_run,
                say=say,
            )
        finally:
            places.close()
    if as_json:
        output.print_json(done.as_json())
    else:
        _print(done)
    if done.left:
        return EXIT_ERROR
    return EXIT_DIFFERENCES if dry_run and (done.rows.total() or done.objects) else EXIT_OK


def _open(source: str, work: Path, say: Callable[[str], None]) -> Staged:
    from mlflow_platform.migrate.sources import open_source

    return open_source(source, work, password=os.environ.get(PASSWORD), say=say)


def _print(done: Moved) -> None:
    shown = {
        "experiments": "experiments",
        "runs": "runs",
        "metrics": "metric values",
        "trace_info": "traces",
        "logged_models": "logged models",
        "registered_models": "registered models and prompts",
        "model_versions": "versions",
    }
    came = ", ".join(f"{done.rows[table]:,} {name}" for table, name in shown.items())
    click.echo(
        f"{output.style(done.source, 'blue')}: {came}, {done.objects:,} artifacts, {done.bytes:,} bytes "
        f"{'would come' if done.dry else 'came'}"
    )
    if done.there.total() or done.objects_there:
        click.echo(f"there already: {done.there.total():,} rows, {done.objects_there:,} artifacts")
    new = {old: here for old, here in done.experiments.items() if old != here}
    if new:
        pairs = ", ".join(f"{old} -> {here}" for old, here in list(new.items())[:10])
        output.note(f"experiments under new ids: {pairs}{', ...' if len(new) > 10 else ''}")
    if done.unseen:
        output.note(f"not looked for, and left if there are any: {', '.join(done.unseen)}")
    for one in done.left:
        click.echo(f"{output.style('left:', 'red')} {one}", err=True)
