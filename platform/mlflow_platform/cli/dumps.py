"""`mlplatform dumps`: what migrations saved of a deployment's database before they changed it."""

from __future__ import annotations

from pathlib import Path

import click

from mlflow_platform.chart import Release
from mlflow_platform.cli import output
from mlflow_platform.cli.deploy import release_options
from mlflow_platform.errors import EXIT_OK


@click.command("dumps")
@release_options
@click.option("--restore", "dump", default="", metavar="DUMP", help="Bring this one back, after asking.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--timeout",
    default=3600,
    show_default=True,
    type=click.IntRange(1),
    help="How long it may take, in seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def dumps_command(
    name: str,
    namespace: str,
    context: str,
    kubeconfig: Path | None,
    dump: str,
    yes: bool,
    timeout: int,
    as_json: bool,
) -> int:
    """List the dumps that were made before migrations, or bring one back.

    To restore stops the servers, and they stay stopped: deploy the version that fits the dump next. What the
    database held moves into a schema of its own; nothing is deleted.

    \b
    Examples:
      mlplatform dumps
      mlplatform dumps --restore 20270131T081500Z-b7e2c1a4d9f3
    """
    from mlflow_platform.adapters.kubernetes import Cluster
    from mlflow_platform.deploy import dumps

    release, cluster = Release(name, namespace), Cluster.connect(kubeconfig, context)
    if dump and not yes:
        click.confirm(
            f"Stop {name} in namespace {namespace} of {cluster.address} and put {dump} in place of its data?",
            abort=True,
            err=True,
        )

    if dump:
        lines = dumps.restore(cluster, release, dump, timeout=timeout)
        lines.append("The servers are stopped: deploy the version that fits this schema.")
    else:
        lines = dumps.show(cluster, release, timeout=timeout)
    if as_json:
        output.print_json({"lines": lines})
    else:
        click.echo("\n".join(lines) or "There are no dumps.")
    return EXIT_OK
