"""`mlplatform render`: the chart as manifests."""

from __future__ import annotations

from pathlib import Path

import click

from mlflow_platform.chart import Chart, Manifest, Release, find_chart
from mlflow_platform.chart.render import DEFAULT_KUBE_VERSION, HEADING
from mlflow_platform.cli import output
from mlflow_platform.errors import BadInput


@click.command("render")
@click.option(
    "-f",
    "--values",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Values file; may be repeated, later ones win.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="PATH=VALUE", help="One value, in YAML; may be repeated."
)
@click.option("--profile", default="", help="Values for a situation: local, small or production.")
@click.option(
    "--name", default="mlflow", show_default=True, help="Name of the release; objects' names start with it."
)
@click.option("-n", "--namespace", default="mlflow", show_default=True, help="Namespace of all objects.")
@click.option(
    "--show-only", multiple=True, metavar="TEMPLATE", help="Only objects of this template; may be repeated."
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    help="Write a file an object there, in place of those of before.",
)
@click.option(
    "--kube-version", default=DEFAULT_KUBE_VERSION, show_default=True, help="Kubernetes to render for."
)
@click.option("--chart", "folder", type=click.Path(path_type=Path), help="Another chart's folder.")
def render_command(
    files: tuple[Path, ...],
    settings: tuple[str, ...],
    profile: str,
    name: str,
    namespace: str,
    show_only: tuple[str, ...],
    output_dir: Path | None,
    kube_version: str,
    folder: Path | None,
) -> None:
    """Print the Kubernetes objects that a deployment consists of.

    \b
    Examples:
      mlplatform render --profile small
      mlplatform render -f my-values.yaml --set server.replicas=3 | kubectl apply --server-side -f -
      mlplatform render --profile production --output-dir manifests/production
    """
    chart = Chart(folder) if folder else find_chart()
    values = chart.values(profile=profile, files=files, settings=settings)
    data = values.data
    if data.get("retention", {}).get("policies") or data.get("backup", {}).get("schedules"):
        from mlflow_platform.deploy import policies

        policies.check(values)
    manifests = _only(chart.render(values, Release(name, namespace), kube_version=kube_version), show_only)
    if output_dir is None:
        click.echo("".join(m.text() for m in manifests), nl=False)
        return
    with output.using(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        # `kubectl apply -f` takes all there is: objects of another rendering must not be among these.
        for old in output_dir.glob("[0-9][0-9]-*.yaml"):
            if old.read_bytes().startswith(HEADING.encode()):
                old.unlink()
        for number, manifest in enumerate(manifests):
            name = f"{number:02d}-{manifest.kind.lower()}-{manifest.name}.yaml"
            (output_dir / name).write_text(manifest.text(), "utf-8")
    click.echo(f"{len(manifests)} objects written to {output_dir}")


def _only(manifests: list[Manifest], templates: tuple[str, ...]) -> list[Manifest]:
    wanted = {
        t.removeprefix("templates/").removesuffix(".j2").removesuffix(".yaml") + ".yaml.j2" for t in templates
    }
    made = {m.template for m in manifests}
    if unknown := wanted - made:
        raise BadInput(
            f"no object comes from {', '.join(sorted(unknown))}",
            remedy=f"with these values there are: {', '.join(sorted(made))}",
        )
    return [m for m in manifests if not wanted or m.template in wanted]
