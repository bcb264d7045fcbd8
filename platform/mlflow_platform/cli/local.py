"""`up`, `down`, `status`, `logs`, `env`, `reset`: the local stack."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_platform.cli import output
from mlflow_platform.errors import EXIT_ERROR, EXIT_OK, BadInput

if TYPE_CHECKING:
    from mlflow_platform.local import Stack

data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the stack. Default: $MLPLATFORM_DATA, else the nearest .mlplatform upwards, else here.",
)
#: Seconds for which an `up` waits for another one to apply its documents.
_DOCUMENTS_TIMEOUT = 600.0

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def stack_of(data: Path | None) -> Stack:
    """The stack that a command means."""
    from mlflow_platform.local import Stack
    from mlflow_platform.local.folder import find

    return Stack(find(data))


@click.command("up")
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@data_option
@click.option("--port", type=click.IntRange(0, 65535), help="MLflow's port; 0: any. Default: 5000 if free.")
@click.option(
    "--workspaces/--no-workspaces",
    default=None,
    help="MLflow's workspaces. Default: as before, at first off.",
)
@click.option(
    "--webhooks-local/--no-webhooks-local",
    default=None,
    help="Allow webhooks with plain http to private addresses. Default: as before, at first not.",
)
@json_option
def up_command(
    paths: tuple[Path, ...],
    data: Path | None,
    port: int | None,
    workspaces: bool | None,
    webhooks_local: bool | None,
    as_json: bool,
) -> int:
    """Start the local stack: Postgres, S3 and MLflow with a login; then apply the documents in PATHS.

    What runs already is left alone. Secrets that the documents name and that have no value yet get a
    random one, in <folder>/secrets/<name>/<key>.

    \b
    Examples:
      mlplatform up
      mlplatform up manifests/examples
      mlplatform up --data /srv/mlflow --port 8080
    """
    stack = stack_of(data)
    with output_line(quiet=as_json) as say:
        started = stack.up(port=port, workspaces=workspaces, webhooks_local=webhooks_local, progress=say)
    code, results = _apply(stack, paths, quiet=as_json) if paths else (EXIT_OK, [])
    where = stack.endpoints()
    if as_json:
        output.print_json(
            {
                "started": started,
                "uri": where.tracking_uri,
                "username": where.username,
                "data": str(stack.folder.root),
                "applied": [str(p) for p in paths],
                "servers": results,
            }
        )
        return code
    word = "is up" if started else "was up already; nothing changed"
    click.echo(f"{output.style('MLflow', 'green')} {word}: {where.tracking_uri}")
    option = "" if stack_of(None).folder == stack.folder else f" --data {shlex.quote(str(stack.folder.root))}"
    click.echo(f"  user      {where.username}; `mlplatform env{option}` prints the password")
    click.echo(f'  clients   eval "$(mlplatform env{option})"')
    click.echo(f"  data      {stack.folder.root}")
    return code


def _apply(stack: Stack, paths: tuple[Path, ...], *, quiet: bool) -> tuple[int, list[dict[str, Any]]]:
    """Apply documents; the exit code, and where nothing is to be printed the results by server.

    One `up` of a stack at a time comes here: two would invent different values for one secret.
    """
    import contextlib

    from mlflow_platform.cli.govern import apply_documents
    from mlflow_platform.config import load
    from mlflow_platform.local.credentials import ensure_values
    from mlflow_platform.local.documents import references
    from mlflow_platform.local.folder import locked

    where = stack.endpoints()
    found = references(one.document for one in load(paths).documents)
    with (
        locked(
            stack.folder.documents_lock,
            timeout=_DOCUMENTS_TIMEOUT,
            waiting=lambda: click.echo(
                "note: another `mlplatform up` applies documents here; waiting", err=True
            ),
        ),
        contextlib.ExitStack() as until,
    ):
        results = until.enter_context(output.results_collected()) if quiet else []
        written = ensure_values(where.secrets, found)
        if written and not quiet:
            click.echo(f"Made {len(written)} random secret(s) in {where.secrets}.")
        code = apply_documents(
            paths,
            tracking_uri=where.tracking_uri,
            username=where.username,
            password=where.password,
            secrets_dir=where.secrets,
        )
    return code, results


@click.command("down")
@data_option
@json_option
def down_command(data: Path | None, as_json: bool) -> None:
    """Stop the local stack and wait until its processes have ended. Its data stays.

    \b
    Example:
      mlplatform down
    """
    ended = stack_of(data).down()
    if as_json:
        output.print_json({"ended": ended})
    else:
        click.echo(f"Stopped {ended} processes." if ended else "Nothing was running.")


@click.command("status")
@data_option
@json_option
def status_command(data: Path | None, as_json: bool) -> int:
    """Show the local stack's processes, ports and health. Exit code 0: all is healthy, 1: not.

    \b
    Examples:
      mlplatform status
      mlplatform status --json | jq .healthy
    """
    from mlflow_platform.local.stack import status_json

    status = stack_of(data).status()
    code = EXIT_OK if status.healthy else EXIT_ERROR
    if as_json:
        output.print_json(status_json(status))
        return code
    if not status.exists:
        click.echo(f"No stack in {status.data}. Start one: mlplatform up")
        return code
    click.echo(f"{status.phase}: {status.uri}  ({status.data})")
    for process in status.processes:
        word = output.style("healthy", "green") if process.healthy else output.style("down   ", "red")
        more = f"  restarts {process.restarts}" if process.restarts else ""
        why = f"  {process.problem}" if process.problem else ""
        click.echo(
            f"  {process.name:<11} {word}  pid {process.pid or '-':<8} port {process.port or '-'}{more}{why}"
        )
    if status.problem:
        click.echo(output.style(status.problem, "red"))
    return code


@click.command("logs")
@click.argument(
    "name", required=False, type=click.Choice(["supervisor", "postgres", "s3", "migrate", "mlflow"])
)
@click.option("-f", "--follow", is_flag=True, help="Print new lines as they come, until Ctrl-C.")
@click.option(
    "-n", "--lines", default=50, show_default=True, type=click.IntRange(0), help="Lines from the end."
)
@data_option
def logs_command(name: str | None, follow: bool, lines: int, data: Path | None) -> None:
    """Print the logs of the local stack, or of one of its processes.

    \b
    Examples:
      mlplatform logs mlflow
      mlplatform logs -f
    """
    from mlflow_platform.local import logs

    folder = stack_of(data).folder
    paths = [folder.log(name)] if name else sorted(folder.logs.glob("*.log"))
    if not folder.logs.is_dir():
        raise BadInput(
            f"there is no stack in {folder.root}",
            remedy="start one with `mlplatform up`, or name its folder with --data",
        )
    if not follow and not any(path.exists() for path in paths):
        raise BadInput(
            f"{name or 'the stack'} has no log yet in {folder.logs}",
            remedy="wait for it with --follow, or start the stack with `mlplatform up`",
        )
    for path in paths:
        for line in logs.tail(path, lines):
            click.echo(line if name else f"{path.stem}: {line}")
    if follow:
        for path, line in logs.follow(paths):
            click.echo(line if name else f"{path.stem}: {line}")


@click.command("env")
@data_option
@json_option
def env_command(data: Path | None, as_json: bool) -> None:
    """Print `export` lines that point any MLflow client at the local stack, password included.

    \b
    Examples:
      eval "$(mlplatform env)"
      mlplatform env --json
    """
    variables = stack_of(data).endpoints().environment()
    if as_json:
        output.print_json(variables)
        return
    for key, value in variables.items():
        click.echo(f"export {key}={shlex.quote(value)}")


@click.command("reset")
@data_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def reset_command(data: Path | None, yes: bool, as_json: bool) -> None:
    """Stop the local stack and delete its folder: runs, models, artifacts, users, passwords, logs.

    \b
    Examples:
      mlplatform reset
      mlplatform reset --yes && mlplatform up
    """
    stack = stack_of(data)
    exists = stack.status().exists
    if exists and not yes:
        click.confirm(f"Delete {stack.folder.root} with everything logged there?", abort=True, err=True)
    if exists:
        stack.reset()
    if as_json:
        output.print_json({"deleted": str(stack.folder.root) if exists else None})
    else:
        click.echo(f"Deleted {stack.folder.root}." if exists else f"No stack in {stack.folder.root}.")


class output_line:  # noqa: N801 - reads as a function where it is used
    """Steps of something that takes a while, one line that is overwritten; nothing off a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._shown = sys.stderr.isatty() and not quiet and os.environ.get("TERM") != "dumb"

    def __enter__(self) -> Any:
        return self._say

    def __exit__(self, *_: object) -> None:
        if self._shown:
            click.echo("\r\033[K", nl=False, err=True)

    def _say(self, step: str) -> None:
        if self._shown:
            click.echo(f"\r\033[K{step} ...", nl=False, err=True)
