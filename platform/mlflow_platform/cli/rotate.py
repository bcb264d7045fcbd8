"""`mlplatform rotate`: passwords and keys of a deployment, changed while it serves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlflow_platform.chart import Release
from mlflow_platform.cli import output
from mlflow_platform.cli.deploy import release_options, screen
from mlflow_platform.errors import EXIT_OK

if TYPE_CHECKING:
    from mlflow_platform.deploy.rotation import Outcome, Rotation

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("rotate")
def rotate_command() -> None:
    """Change a password or a pair of keys of a deployment, without a failed request.

    May be killed at any point: the same command again finishes what was begun. No secret is printed.
    """


@rotate_command.command("database")
@release_options
@click.option(
    "--administrator-secret",
    "administrator",
    default="",
    help="Secret (username, password) of a login that may alter roles. Default: the servers' own login.",
)
@_JSON
def database_command(
    name: str, namespace: str, context: str, kubeconfig: Path | None, administrator: str, as_json: bool
) -> int:
    """Give the servers the other of two database roles, with a new password; retire the one they used.

    \b
    Examples:
      mlplatform rotate database
      mlplatform rotate database -n team-a --administrator-secret postgres-administrator
    """
    return _rotate(name, namespace, context, kubeconfig, as_json, lambda r: r.database(administrator))


@rotate_command.command("admin")
@release_options
@click.option(
    "--overlap",
    default=600,
    show_default=True,
    type=click.IntRange(0, 86400),
    help="For how many seconds the previous password is accepted as well.",
)
@click.option("--finish", is_flag=True, help="End that now; return when every server refuses it.")
@_JSON
def admin_command(
    name: str,
    namespace: str,
    context: str,
    kubeconfig: Path | None,
    overlap: int,
    finish: bool,
    as_json: bool,
) -> int:
    """Change the administrator's password in MLflow and in its Secret.

    \b
    Examples:
      mlplatform rotate admin
      mlplatform rotate admin --finish
    """

    def change(rotation: Rotation) -> Outcome:
        return rotation.finish_admin() if finish else rotation.admin(overlap)

    return _rotate(name, namespace, context, kubeconfig, as_json, change)


@rotate_command.command("store")
@release_options
@click.option(
    "--from-secret",
    default="",
    help="Secret (accessKeyId, secretAccessKey) with the new pair; needed where the store is not bundled.",
)
@_JSON
def store_command(
    name: str, namespace: str, context: str, kubeconfig: Path | None, from_secret: str, as_json: bool
) -> int:
    """Give the servers a new pair of S3 keys, tried before they use it; remove the one they used.

    \b
    Examples:
      mlplatform rotate store
      mlplatform rotate store --from-secret new-keys
    """
    return _rotate(name, namespace, context, kubeconfig, as_json, lambda r: r.store(from_secret))


def _rotate(
    name: str,
    namespace: str,
    context: str,
    kubeconfig: Path | None,
    as_json: bool,
    change: Callable[[Rotation], Outcome],
) -> int:
    from mlflow_platform.adapters.kubernetes import Cluster
    from mlflow_platform.deploy import turns
    from mlflow_platform.deploy.rotation import Rotation

    cluster, release = Cluster.connect(kubeconfig, context), Release(name, namespace)
    rotation = Rotation(cluster, release, screen=screen(quiet=as_json))
    with turns.turn(cluster, release, timeout=rotation.timeout, say=rotation.screen.going_on):
        outcome = change(rotation)
    if as_json:
        seconds = {k: round(s, 2) for k, s in outcome.seconds.items()}
        output.print_json(
            {
                "secret": outcome.secret,
                "seconds": seconds,
                "words": outcome.words,
                "remaining": outcome.remaining,
            }
        )
        return EXIT_OK
    for line in outcome.words:
        click.echo(f"  {line}")
    if not outcome.seconds:
        click.echo("There was nothing to finish.")
        return EXIT_OK
    took = sum(outcome.seconds.values())
    click.echo(f"{output.style('Done', 'green')} in {took:.0f} s: Secret {outcome.secret}.")
    if outcome.remaining:
        click.echo(f"  {outcome.remaining}")
    return EXIT_OK
