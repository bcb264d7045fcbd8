"""`import` and `export`: what a server holds, as documents."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_platform.cli import output
from mlflow_platform.cli.targets import connection
from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    from mlflow_platform.apply.rounds import Target
    from mlflow_platform.plan.objects import Observed


@click.command("import")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="A new folder.")
@click.option("--project", required=True, metavar="NAME", help="Project name, written to mlplatform.toml.")
@click.option("--tracking-uri", metavar="URI", help="Default: MLFLOW_TRACKING_URI, else the local stack.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_command(out: Path, project: str, tracking_uri: str | None, as_json: bool) -> None:
    """Write an existing server as documents, one file a kind.

    Reads only. The plan of the documents is empty; what differs later is adopted then, or at once with
    `apply --adopt`. Left out: objects that another owner declares already, MLflow's own, passwords and
    webhook secrets (they cannot be read), and the login in use.

    \b
    Examples:
      mlplatform import --out config --project research
      mlplatform import --out config --project research --tracking-uri https://mlflow.example.com
    """
    from mlflow_platform.config import transfer
    from mlflow_platform.config.project import check_name

    check_name(project)
    with output.using(out):
        if out.exists() and any(out.iterdir()):
            raise BadInput(f"{out} is not empty", remedy="name a new folder: nothing is overwritten")
    target = open_target(tracking_uri, f"project:{project}")
    with output.using(out):  # before all is read, which may take a while
        out.mkdir(parents=True, exist_ok=True)
    observed = everything(target)
    free = [o for o in observed if not o.mark or o.mark.owner == target.owner]
    others = len(observed) - len(free)
    found = list(documents(target, free))
    left_out = [said for o in free if (said := target.kinds[o.key.kind].left_out(o))]
    with output.using(out):
        written = transfer.write(found, out, project)
    if as_json:
        output.print_json(
            {"folder": str(out), "written": written, "owned_by_others": others, "left_out": left_out}
        )
        return
    for kind, count in written.items():
        click.echo(f"{count:6} {kind}")
    if others:
        click.echo(f"{others:6} left out: declared by another owner already")
    for said in left_out:
        output.note(said)
    click.echo(f"Written to {out}. Next: mlplatform plan {out}")


@click.command("export")
@click.option("--project", required=True, metavar="NAME", help="The owner whose objects are printed.")
@click.option("--tracking-uri", metavar="URI", help="Default: MLFLOW_TRACKING_URI, else the local stack.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export_command(project: str, tracking_uri: str | None, as_json: bool) -> None:
    """Print the objects that a project owns as documents, as the server has them now.

    What a server cannot tell (where a secret is kept, that an alias may drift) is named on standard error.

    \b
    Examples:
      mlplatform export --project examples > now.yaml
      mlplatform export --project examples --json
    """
    from mlflow_platform.config import transfer
    from mlflow_platform.config.project import check_name

    check_name(project)
    target = open_target(tracking_uri, f"project:{project}")
    mine = [o for o in everything(target) if o.mark and o.mark.owner == target.owner]
    found = list(documents(target, mine))
    for item in mine:
        said = target.kinds[item.key.kind].left_out(item)
        if said:
            output.note(said)
    if as_json:
        output.print_json(found)
    else:
        click.echo(transfer.as_yaml(found), nl=False)


def open_target(tracking_uri: str | None, owner: str) -> Target:
    """The server that `import` and `export` read."""
    from mlflow_platform.adapters.servers import connect
    from mlflow_platform.config.secrets import SecretSource

    where = connection(tracking_uri, None)
    if where.tracking_uri is None:
        raise BadInput(
            "no tracking server: none is given and no local stack is running",
            remedy="pass --tracking-uri, set MLFLOW_TRACKING_URI, or start one with `mlplatform up`",
        )
    secrets = SecretSource(where.secrets, os.environ, output.note)
    return connect(where.tracking_uri, where.username, where.password, owner=owner, secrets=secrets)


def everything(target: Target) -> list[Observed]:
    """All objects that exist on the server."""
    from mlflow_platform.apply.rounds import observe_all

    return [o for o in observe_all(target) if o.active]


def documents(target: Target, observed: Iterable[Observed]) -> Iterable[Mapping[str, Any]]:
    """The documents that declare the objects, in the order in which they would be created."""
    for item in sorted(observed, key=lambda o: (target.kinds[o.key.kind].traits.rank, o.key)):
        document = target.kinds[item.key.kind].document(item)
        if document is not None:
            yield document
