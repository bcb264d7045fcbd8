"""`backup create | list | verify | restore | drill`: thin over `mlflow_platform.backup`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlflow_platform.cli import output
from mlflow_platform.cli.arguments import PATHS
from mlflow_platform.cli.stores import json_option, secrets_option, server_option
from mlflow_platform.errors import EXIT_ERROR, EXIT_OK, BadInput

if TYPE_CHECKING:
    from mlflow_platform.backup.manifest import Manifest

F = TypeVar("F", bound=Callable[..., Any])

name_argument = click.argument("name", required=False)


def vault_options(command: F) -> F:
    """Where backups are: a BackupSchedule document, or an address."""
    options = (
        click.option(
            "-f", "--documents", "paths", multiple=True, type=PATHS, help="Files or folders of documents."
        ),
        click.option("--schedule", metavar="NAME", help="The BackupSchedule that says where backups are."),
        click.option("--at", metavar="URI", help="Or their place: s3://BUCKET/PREFIX or a folder."),
        click.option("--endpoint", metavar="URL", help="With --at: address of the S3 API. Default: AWS."),
        click.option("--region", metavar="NAME", help="With --at: region of the bucket."),
        click.option(
            "--key-file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="With --at: the key that backups are encrypted with.",
        ),
        secrets_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group("backup")
def backup_command() -> None:
    """Back a platform up, prove the backup, and bring it back here or elsewhere.

    A backup is the databases of one moment and every artifact, in a bucket's prefix or a folder of its own. A
    BackupSchedule document says where, or --at; the keys of that store then come from
    MLPLATFORM_BACKUP_ACCESS_KEY_ID and MLPLATFORM_BACKUP_SECRET_ACCESS_KEY, else from wherever AWS' programs
    have theirs. What is backed up, or restored into, comes from the TrackingServer document; for the server
    `default` without one, from the variables that a server is started with, else it is the local stack.
    docs/backup.md has the runbook.
    """


@backup_command.command("create")
@vault_options
@server_option
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Delete all but the newest N afterwards.")
@click.option("--keep-for", metavar="AGE", help="Delete older ones afterwards, as 30d. The newest stays.")
@click.option("--full", is_flag=True, help="Read and write every object anew; repairs damaged ones.")
@json_option
def create_command(
    server: str, keep: int | None, keep_for: str | None, full: bool, as_json: bool, **place: Any
) -> int:
    """Back up while the platform serves. Only objects that are new or changed are copied.

    Waits for a migration or a retention run, which wait for it. Safe to interrupt: without its manifest, a
    backup is none, and what was copied the next one finds.

    \b
    Examples:
      mlplatform backup create --at s3://backups/mlflow --key-file key --keep 30
      mlplatform backup create -f documents --schedule nightly
    """
    from mlflow_platform.backup.create import create
    from mlflow_platform.backup.prune import Keep
    from mlflow_platform.cli.vaults import open_platform, open_vault

    keeping = Keep(keep, _age(keep_for)) if keep or keep_for else None
    with ExitStack() as stack:
        vault, schedule = stack.enter_context(open_vault(**place, create=True))
        site = stack.enter_context(open_platform(schedule.spec.server if schedule else server, place))
        if schedule is not None and schedule.spec.keep is not None and keeping is None:
            keeping = Keep(schedule.spec.keep.last, _age(schedule.spec.keep.age))
        say = stack.enter_context(_progress(as_json))
        made = create(site.platform, vault, keep=keeping, full=full, say=say)
    if as_json:
        output.print_json(_summary(made))
    else:
        click.echo(f"{made.name}: {_amount(made)}; {made.copied:,} objects copied in {made.seconds:.1f} s")
    return EXIT_OK


@backup_command.command("list")
@vault_options
@json_option
def list_command(as_json: bool, **place: Any) -> int:
    """List the backups that are whole, oldest first.

    \b
    Example:
      mlplatform backup list --at s3://backups/mlflow
    """
    from mlflow_platform.backup import manifest
    from mlflow_platform.cli.vaults import open_vault

    with open_vault(**place) as (vault, _):
        found = [manifest.read(vault, name) for name in vault.finished()]
    if as_json:
        output.print_json([_summary(one) for one in found])
    else:
        for one in found:
            click.echo(f"{one.name}  {one.created}  MLflow {one.mlflow}, {_amount(one)}")
        if not found:
            click.echo("There are no backups.")
    return EXIT_OK


@backup_command.command("verify")
@name_argument
@vault_options
@click.option(
    "--sample",
    type=click.IntRange(0, 100),
    default=100,
    show_default=True,
    metavar="PERCENT",
    help="Read so many of the contents, chosen at random; the others must be there.",
)
@json_option
def verify_command(name: str | None, sample: int, as_json: bool, **place: Any) -> int:
    """Read a backup (default: the newest) and compare every digest.

    Exit code 0: it is whole, 1: something is damaged or lost.

    \b
    Example:
      mlplatform backup verify --at s3://backups/mlflow --sample 10
    """
    from mlflow_platform.backup.verify import verify
    from mlflow_platform.cli.vaults import open_vault

    with open_vault(**place) as (vault, _), _progress(as_json) as say:
        report = verify(vault, vault.named(name), share=sample / 100, say=say)
    if as_json:
        output.print_json(asdict(report))
    else:
        click.echo(
            f"{report.backup}: read {report.rows:,} rows in {report.tables} tables, "
            f"{report.contents:,} contents ({report.size / 2**20:,.1f} MiB) of {report.objects:,} objects"
        )
        _problems(report.problems, report.failed)
    return EXIT_ERROR if report.failed else EXIT_OK


@backup_command.command("restore")
@name_argument
@vault_options
@server_option
@click.option(
    "--map",
    "moves",
    multiple=True,
    metavar="OLD=NEW",
    help="Where the objects of a root go that clients write to themselves. NEW is a root of the target.",
)
@click.option("--drop-secrets", is_flag=True, help="Forget secrets whose key is lost.")
@json_option
def restore_command(
    name: str | None, server: str, moves: tuple[str, ...], drop_secrets: bool, as_json: bool, **place: Any
) -> int:
    """Bring a backup (default: the newest) back, into a platform with nothing in it.

    Every stored address of an artifact is rewritten to the target's stores; the administrator and the keys
    are the target's. Interrupted, the same command goes on. Afterwards restart the servers, and apply the
    documents.

    \b
    Examples:
      mlplatform backup restore --at s3://backups/mlflow
      mlplatform backup restore 20270131T081500Z-b7e2c1a4d9f3 --at /mnt/backups --key-file key
    """
    from mlflow_platform.backup.restore import restore
    from mlflow_platform.cli.vaults import open_platform, open_vault

    pairs = {}
    for one in moves:
        old, equal, new = one.partition("=")
        if not (old and equal and new):
            raise BadInput(f"--map {one}: this is no pair", remedy="write --map OLD=NEW")
        pairs[old.rstrip("/")] = new.rstrip("/")
    with ExitStack() as stack:
        vault, schedule = stack.enter_context(open_vault(**place))
        site = stack.enter_context(open_platform(schedule.spec.server if schedule else server, place))
        say = stack.enter_context(_progress(as_json))
        done = restore(
            replace(site, moves=pairs), vault, vault.named(name), drop_secrets=drop_secrets, say=say
        )
    if as_json:
        output.print_json(asdict(done))
    else:
        click.echo(
            f"restored {done.backup}: {done.rows:,} rows, {done.objects:,} objects "
            f"({done.size / 2**20:,.1f} MiB), {done.rewritten:,} addresses rewritten"
        )
        if done.strange:
            click.echo(f"left out, because they are not MLflow's: {', '.join(done.strange)}")
        click.echo("Now restart the servers, then apply the documents.")
    return EXIT_OK


@backup_command.command("drill")
@name_argument
@vault_options
@click.option(
    "--database",
    metavar="VARIABLE",
    help="Environment variable with the address of an empty database. Default: one is started.",
)
@json_option
def drill_command(name: str | None, database: str | None, as_json: bool, **place: Any) -> int:
    """Restore a backup (default: the newest) into a scratch database, and read every artifact of every row.

    Needs the backup's credentials alone. The database that a BackupSchedule names for it is left empty, any
    other one as it is. Changes one byte of an object and of a table on their way, and fails
    unless both are noticed. Exit code 0: the backup can be restored, 1: it cannot.

    \b
    Example:
      mlplatform backup drill --at s3://backups/mlflow --json
    """
    from mlflow_platform.backup.drill import drill
    from mlflow_platform.cli.vaults import open_scratch, open_vault, reaching, scratch_reference

    with ExitStack() as stack:
        vault, schedule = stack.enter_context(open_vault(**place))
        chosen = vault.named(name)
        say = stack.enter_context(_progress(as_json))
        tracking, auth = stack.enter_context(open_scratch(database, schedule, place["secrets"]))
        reach = reaching(schedule, place)
        again = database is None and scratch_reference(schedule) is not None
        report = drill(vault, chosen, tracking, auth, reach=reach, again=again, say=say)
    if as_json:
        output.print_json({**asdict(report), "passed": report.passed})
    else:
        click.echo(
            f"{report.backup}: {report.rows:,} rows restored; {report.named:,} name artifacts, "
            f"{report.bare:,} have none, {report.outside:,} name places that are not backed up"
        )
        click.echo(f"read {report.read.contents:,} contents of {report.read.objects:,} objects")
        for step, seconds in report.seconds.items():
            click.echo(f"  {step}: {seconds:.1f} s")
        for what in report.noticed:
            click.echo(f"noticed: a changed byte of {what}")
        for note in report.notes:
            click.echo(f"note: {note}")
        _problems(report.problems, len(report.problems))
        _problems(report.read.problems, report.read.failed)
    return EXIT_OK if report.passed else EXIT_ERROR


def _age(text: str | None) -> timedelta | None:
    import re

    from mlflow_platform.model.retention_policy import DURATION, seconds

    if text is None:
        return None
    if not re.fullmatch(DURATION, text):
        raise BadInput(
            f"--keep-for {text}: this is no age", remedy="write a number and a unit, as 30d or 12h"
        )
    return timedelta(seconds=seconds(text))


def _summary(made: Manifest) -> dict[str, Any]:
    found = asdict(made)
    found.pop("samples")
    return {**found, "objects": made.objects, "size": made.size}


def _amount(made: Manifest) -> str:
    return f"{made.rows:,} rows, {made.objects:,} objects ({made.size / 2**20:,.1f} MiB)"


def _problems(found: list[str], count: int) -> None:
    for problem in found:
        click.echo(f"{output.style('problem:', 'red')} {problem}", err=True)
    if count > len(found):
        click.echo(f"and {count - len(found):,} more", err=True)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    from mlflow_platform.cli.local import output_line

    with output_line(quiet=quiet) as say:
        yield say
