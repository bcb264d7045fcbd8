"""`retention plan | run | status | undo`: thin over `mlflow_platform.retention`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlflow_platform.cli import output
from mlflow_platform.cli.arguments import PATHS
from mlflow_platform.cli.data import opened, progress
from mlflow_platform.cli.stores import json_option, secrets_option, server_option
from mlflow_platform.errors import EXIT_DIFFERENCES, EXIT_ERROR, EXIT_OK

if TYPE_CHECKING:
    from mlflow_platform.retention.report import Report

F = TypeVar("F", bound=Callable[..., Any])

paths_argument = click.argument("paths", nargs=-1, type=PATHS)
policy_option = click.option("--policy", "names", multiple=True, metavar="NAME", help="Only this policy.")


@click.group("retention")
def retention_command() -> None:
    """Delete old runs, traces, models and experiments by RetentionPolicy documents.

    Database and artifact stores come from the TrackingServer document's spec.database and spec.artifacts;
    for the server `default` without one, from the variables that a server is started with
    (MLFLOW_BACKEND_STORE_URI or PGHOST and its kin, MLFLOW_ARTIFACTS_DESTINATION, MLFLOW_S3_ENDPOINT_URL,
    AWS_*), else from the local stack. docs/retention.md tells how nothing is lost.
    """


@retention_command.command("plan")
@paths_argument
@policy_option
@server_option
@secrets_option
@click.option("--no-sizes", is_flag=True, help="Do not ask the stores for objects, bytes and orphans.")
@click.option("--no-exit-code", is_flag=True, help="Exit 0 also where something would go.")
@json_option
def plan_command(
    paths: tuple[Path, ...],
    names: tuple[str, ...],
    server: str,
    secrets: str | None,
    no_sizes: bool,
    no_exit_code: bool,
    as_json: bool,
) -> int:
    """Show what `run` would quarantine and purge now, by experiment, and change nothing.

    Exit code 0: nothing, 2: something, 1: error.

    \b
    Examples:
      mlplatform retention plan policies
      mlplatform retention plan policies --policy nightly --json
    """
    from mlflow_platform.retention.engine import Engine

    with opened(paths, names, server, secrets) as site:
        report = Engine(site.database, site.roots).plan(site.policies, sizes=not no_sizes)
    _print(report, as_json)
    return EXIT_OK if report.empty or no_exit_code else EXIT_DIFFERENCES


@retention_command.command("run")
@paths_argument
@policy_option
@server_option
@secrets_option
@click.option("--allow-destructive", metavar="HASH", help="Let the choice of this hash pass the brake.")
@click.option(
    "--wait",
    "patience",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0.0),
    help="Seconds to wait for a migration, a backup or another run.",
)
@click.option("--claim", is_flag=True, help="Mark unmarked roots although this database is a copy.")
@json_option
def run_command(
    paths: tuple[Path, ...],
    names: tuple[str, ...],
    server: str,
    secrets: str | None,
    allow_destructive: str | None,
    patience: float,
    claim: bool,
    as_json: bool,
) -> int:
    """Quarantine what the policies choose, and purge what has been in quarantine long enough.

    Safe to interrupt at any point and while the server is serving: the next run finishes what is left.
    Exit code 0: done, 1: something is left (it is in the journal), 3: a brake stopped it.

    \b
    Examples:
      mlplatform retention run policies
      mlplatform retention run policies --allow-destructive 0a1b2c3d4e5f
    """
    from mlflow_platform.retention.engine import Engine

    with opened(paths, names, server, secrets) as site, progress(quiet=as_json) as (say, count):
        engine = Engine(
            site.database,
            site.roots,
            site.ask,
            say,
            count,
            patience=patience,
            archiver=site.archiver(say),
        )
        report = engine.run(site.policies, allowed=allow_destructive, claim_roots=claim)
    _print(report, as_json)
    return EXIT_ERROR if report.problems else EXIT_OK


@retention_command.command("status")
@paths_argument
@server_option
@secrets_option
@json_option
def status_command(paths: tuple[Path, ...], server: str, secrets: str | None, as_json: bool) -> None:
    """Show what is in quarantine, what waits in the journal and why, and how the last runs ended.

    \b
    Example:
      mlplatform retention status --json | jq .problems
    """
    from mlflow_platform.retention.held import status

    with opened(paths, (), server, secrets, needs_policies=False) as site:
        found = status(site.database, site.roots)
    if as_json:
        output.print_json(found)
        return
    click.echo(f"installation {found['installation'] or '-'}, schema {found['schema']}")
    for uri, whose in found["roots"].items():
        click.echo(f"  root {uri}: {'not marked yet' if whose is None else f'of installation {whose}'}")
    for one in found["quarantine"]:
        click.echo(
            f"  in quarantine: {one['count']:,} {one['kind']}s ({one['policy']}, since {one['since']})"
        )
    for one in found["journal"]:
        size = f"{one['objects']:,} objects, {one['bytes']:,} bytes gone"
        click.echo(f"  {one['state']}: {one['count']:,} {one['kind']}s; {size}")
    for one in found["problems"]:
        until = f", until {one['waitsUntil']}" if one["waitsUntil"] else ""
        click.echo(output.style(f"  {one['kind']} {one['id']}: {one['problem']}{until}", "red"))
    for one in found["runs"]:
        click.echo(f"  run of {one['started']}: {one['outcome'] or 'not finished'}")


@retention_command.command("undo")
@paths_argument
@click.option("--policy", metavar="NAME", help="Only what this policy quarantined.")
@click.option("--id", "ids", multiple=True, metavar="ID", help="Only this run, logged model or version.")
@server_option
@secrets_option
@json_option
def undo_command(
    paths: tuple[Path, ...],
    policy: str | None,
    ids: tuple[str, ...],
    server: str,
    secrets: str | None,
    as_json: bool,
) -> None:
    """Bring back what is still in quarantine. No policy chooses it again.

    What is purged is gone. A version's id is WORKSPACE/MODEL/NUMBER.

    \b
    Examples:
      mlplatform retention undo
      mlplatform retention undo --id 0f3d9c1e5a7b4d2f8e6c9a1b3d5f7e90
    """
    from mlflow_platform.retention.held import undo

    with opened(paths, (), server, secrets, needs_policies=False) as site:
        counts = undo(site.database, policy=policy, ids=ids)
    if as_json:
        output.print_json({"restored": counts})
        return
    text = ", ".join(f"{count:,} {kind}s" for kind, count in counts.items() if count)
    click.echo(f"Brought back {text}." if text else "Nothing is in quarantine.")


def _print(report: Report, as_json: bool) -> None:
    if as_json:
        output.print_json(report.as_json())
        return
    future = "would be " if report.dry else ""
    for experiment, share in sorted(report.experiments.items(), key=lambda item: item[0] or -1):
        name = f"{share.name} ({experiment})" if experiment is not None else "no experiment"
        parts = [f"{n:,} {kind}s {future}quarantined" for kind, n in share.quarantined.items()]
        parts += [f"{n:,} {kind}s {future}purged" for kind, n in share.purged.items()]
        if share.objects:
            parts.append(f"{share.objects:,} objects, {share.bytes:,} bytes")
        click.echo(f"{output.style(name, 'blue')}: {', '.join(parts)}")
    if report.empty:
        click.echo("Nothing to delete.")
    for reason, count in report.kept.items():
        if count:
            click.echo(f"kept: {count:,} ({reason})")
    for note in report.notes:
        click.echo(f"note: {note}")
    if report.stopped:
        click.echo(f"stopped: {report.stopped}")
    if report.dry:
        click.echo(f"hash: {report.hash}")
    for problem in report.problems:
        click.echo(f"{output.style('problem:', 'red')} {problem}", err=True)
    if report.waiting:
        click.echo(f"{report.waiting:,} places still hold objects; the next run goes on with them", err=True)
