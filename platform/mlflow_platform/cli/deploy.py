"""`mlplatform deploy` and `undeploy`: the chart on a cluster."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_platform.chart import Chart, Release, find_chart
from mlflow_platform.cli import output
from mlflow_platform.errors import EXIT_DIFFERENCES, EXIT_OK

if TYPE_CHECKING:
    from mlflow_platform.deploy import Deployment, Outcome


def release_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which release, in which cluster."""
    for option in reversed(
        (
            click.option("--name", default="mlflow", show_default=True, help="Name of the release."),
            click.option("-n", "--namespace", default="mlflow", show_default=True, help="Its namespace."),
            click.option(
                "--context", default="", help="Context of the kubeconfig. Default: its current one."
            ),
            click.option("--kubeconfig", type=click.Path(path_type=Path), help="Default: $KUBECONFIG."),
        )
    ):
        command = option(command)
    return command


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which release, in which cluster, by which chart."""
    chart = click.option("--chart", "folder", type=click.Path(path_type=Path), help="Another chart's folder.")
    return release_options(chart(command))


@click.command("deploy")
@click.option(
    "-f", "--values", "files", multiple=True, type=click.Path(path_type=Path), help="Values file; repeatable."
)
@click.option(
    "--set", "settings", multiple=True, metavar="PATH=VALUE", help="One value, in YAML; repeatable."
)
@click.option("--profile", default="", help="Values for a situation: local, small or production.")
@place_options
@click.option(
    "--timeout",
    default=600,
    show_default=True,
    type=click.IntRange(1),
    help="How long a phase may take, in seconds.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would change; the cluster checks it all.")
@click.option("--diff", is_flag=True, help="As --dry-run, line by line. Exit 0: nothing, 2: changes.")
@click.option(
    "--smoke/--no-smoke", default=True, help="End with a run, an artifact and a model. Default: do."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def deploy_command(
    files: tuple[Path, ...],
    settings: tuple[str, ...],
    profile: str,
    name: str,
    namespace: str,
    context: str,
    kubeconfig: Path | None,
    folder: Path | None,
    timeout: int,
    dry_run: bool,
    diff: bool,
    smoke: bool,
    as_json: bool,
) -> int:
    """Bring MLflow with Postgres, S3 and a login to a Kubernetes cluster, and prove that it works.

    It may be run again at any point: what is there already is left alone.

    \b
    Examples:
      mlplatform deploy --profile local
      mlplatform deploy -f my-values.yaml --diff
      mlplatform deploy -n team-a --set server.replicas=3
    """
    chart = Chart(folder) if folder else find_chart()
    values = chart.values(profile=profile, files=files, settings=settings)
    release = Release(name, namespace)
    chart.render(values, release)  # a mistake in the values is known without a cluster
    from mlflow_platform.adapters.kubernetes import Cluster
    from mlflow_platform.deploy import Deployment, policies

    policies.check(values)
    deployment = Deployment(
        Cluster.connect(kubeconfig, context), chart, values, release, timeout, screen(quiet=as_json)
    )
    if dry_run or diff:
        return _show_differences(deployment, whole=diff, as_json=as_json)
    outcome = deployment.run(try_it=smoke)
    if as_json:
        output.print_json(
            {
                "changes": {k: c.value for k, c in outcome.changes.items()},
                "seconds": {k: round(s, 2) for k, s in outcome.seconds.items()},
                "warnings": outcome.warnings,
                "smoke": outcome.smoke,
            }
        )
        return EXIT_OK
    _show(outcome, release, values.data)
    return EXIT_OK


@click.command("undeploy")
@place_options
@click.option("--delete-data", is_flag=True, help="Also delete volumes and generated Secrets, after asking.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def undeploy_command(
    name: str,
    namespace: str,
    context: str,
    kubeconfig: Path | None,
    folder: Path | None,
    delete_data: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Take a deployment away. Its data stay: volumes and Secrets; a later deploy finds them again.

    \b
    Examples:
      mlplatform undeploy
      mlplatform undeploy -n team-a --delete-data
    """
    chart, release = Chart(folder) if folder else find_chart(), Release(name, namespace)
    from mlflow_platform.adapters.kubernetes import Cluster
    from mlflow_platform.deploy import undeploy

    cluster = Cluster.connect(kubeconfig, context)
    if delete_data and not yes:
        click.confirm(
            f"Delete {name} in namespace {namespace} of {cluster.address} with everything logged there?",
            abort=True,
            err=True,
        )
    deleted = undeploy(cluster, release, chart, delete_data=delete_data)
    if as_json:
        output.print_json({"deleted": deleted})
    elif deleted:
        rest = "" if delete_data else " Volumes and Secrets stay."
        click.echo(f"Deleted {len(deleted)} objects of {name} in {namespace}.{rest}")
    else:
        click.echo(f"There was nothing of {name} in {namespace}.")
    return EXIT_OK


def _show_differences(deployment: Deployment, *, whole: bool, as_json: bool) -> int:
    from mlflow_platform.deploy.differences import Change

    differences = deployment.differences()
    changed = [d for d in differences if d.change is not Change.UNCHANGED]
    if as_json:
        output.print_json({"changes": {f"{d.kind}/{d.name}": d.change.value for d in differences}})
    else:
        for one in changed:
            click.echo(one.text() if whole else f"{one.change.value:<9} {one.kind}/{one.name}", nl=not whole)
        click.echo(f"{len(changed)} of {len(differences)} objects would change.")
    return EXIT_DIFFERENCES if changed and whole else EXIT_OK


def _show(outcome: Outcome, release: Release, values: Any) -> None:
    from mlflow_platform.deploy.differences import Change

    for line in outcome.warnings:
        click.echo(f"{output.style('warning:', 'yellow')} {line}", err=True)
    counts = [f"{n} {c.value}" for c in Change if (n := outcome.count(c))]
    click.echo(
        f"{output.style('Deployed', 'green')} in {sum(outcome.seconds.values()):.0f} s: {', '.join(counts)}."
    )
    port, namespace = values["service"]["port"], release.namespace
    secret = values["auth"]["existingSecret"] or f"{release.name}-auth"
    click.echo(f"  in the cluster  http://{release.name}.{namespace}.svc:{port}")
    click.echo(f"  from here       kubectl -n {namespace} port-forward service/{release.name} {port}")
    jsonpath = "jsonpath='{.data.password}'"
    click.echo(f"  password        kubectl -n {namespace} get secret {secret} -o {jsonpath} | base64 -d")


@functools.cache
def _interactive() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def screen(*, quiet: bool) -> Any:
    """Where phases and steps report to: standard error, or nowhere."""
    from mlflow_platform.deploy.deployment import Screen

    class Lines(Screen):
        """A line a phase when it has ended; on a terminal also what is being waited for."""

        def __init__(self) -> None:
            self.phase = ""

        def started(self, phase: str) -> None:
            self.phase = phase
            self.going_on("")

        def going_on(self, text: str) -> None:
            if _interactive():
                width = os.get_terminal_size(sys.stderr.fileno()).columns
                click.echo(f"\r\033[K{f'{self.phase} ... {text}'[: width - 1]}", nl=False, err=True)

        def ended(self, phase: str, seconds: float) -> None:
            start = "\r\033[K" if _interactive() else ""
            click.echo(f"{start}{output.style('done', 'green')}  {phase:<20} {seconds:6.1f} s", err=True)

    return Screen() if quiet else Lines()
