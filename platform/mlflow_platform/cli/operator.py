"""`mlplatform operator run`."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("operator")
def operator_command() -> None:
    """Keep the documents of a Kubernetes cluster true on their tracking servers.

    \b
    Example:
      mlplatform operator run --namespace mlflow
    """


@operator_command.command("run")
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path), help="Default: $KUBECONFIG, or the pod's login."
)
@click.option("--context", default="", help="Context of the kubeconfig. Default: its current one.")
@click.option(
    "-n",
    "--namespace",
    help="The operator's own, which may declare everything. Default: its pod's, or mlflow.",
)
@click.option(
    "--name",
    default="mlplatform",
    show_default=True,
    help="What replicas of one operator share, and others do not: its Lease is NAME-operator.",
)
@click.option(
    "--interval",
    default=180.0,
    show_default=True,
    type=click.FloatRange(1.0),
    help="Seconds between two looks at everything, a tenth more or less.",
)
@click.option(
    "--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Of /readyz, /metrics."
)
@click.option(
    "--default-server",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A TrackingServer document to create if there is none of its name.",
)
@click.option(
    "--job-template",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What the chart says of jobs. Without it, policies and backup schedules are not carried out.",
)
def run_command(
    kubeconfig: Path | None,
    context: str,
    namespace: str | None,
    name: str,
    interval: float,
    port: int,
    default_server: Path | None,
    job_template: Path | None,
) -> None:
    """Run until SIGTERM. Several replicas may run: one leads, the others wait.

    The cluster must know the documents' definitions: kubectl apply --server-side -f manifests/crds.

    \b
    Example:
      mlplatform operator run --kubeconfig ~/.kube/config --namespace default --port 0
    """
    import logging

    from mlflow_platform.operator import process

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    process.run(
        process.Settings(
            kubeconfig=kubeconfig,
            context=context,
            namespace=namespace or process.own_namespace("mlflow"),
            name=name,
            interval=interval,
            port=port,
            default_server=default_server,
            job_template=job_template,
        )
    )
