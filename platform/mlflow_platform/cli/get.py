"""`mlplatform get`: the documents of a cluster and what the operator says of them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_platform.cli import output
from mlflow_platform.errors import EXIT_ERROR, EXIT_OK, BadInput

if TYPE_CHECKING:
    from mlflow_platform.adapters.kubernetes import Cluster

_COLOURS = {"True": "green", "False": "red"}


@click.command("get")
@click.argument("what", required=False, metavar="[KIND[/NAME]]")
@click.option("-n", "--namespace", help="Only documents of this namespace. Default: of all.")
@click.option("--not-ready", is_flag=True, help="Only documents that are not as declared.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Default: $KUBECONFIG.")
@click.option("--context", default="", help="Context of the kubeconfig. Default: its current one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def get_command(
    what: str | None,
    namespace: str | None,
    not_ready: bool,
    kubeconfig: Path | None,
    context: str,
    as_json: bool,
) -> int:
    """Show the documents of a cluster, whether each is as declared, and if not why.

    With a NAME, also its other conditions and its latest Events. Exit code 0: all that are shown are ready,
    1: some are not.

    \b
    Examples:
      mlplatform get
      mlplatform get experiments -n team-a --not-ready
      mlplatform get exp/retrieval -n team-a
    """
    kind, name = _wanted(what)
    from mlflow_platform.adapters.kubernetes import Cluster
    from mlflow_platform.model import DOCUMENTS
    from mlflow_platform.model.base import API_VERSION

    cluster = Cluster.connect(kubeconfig, context)
    found = [
        {"kind": k, **item}
        for k in ([kind] if kind else DOCUMENTS)
        for item in cluster.find(API_VERSION, k, namespace or "")
        if (not name or item["metadata"]["name"] == name) and not (not_ready and _ready(item) == "True")
    ]
    if name and not found:
        place = f" in namespace {namespace}" if namespace else ""
        raise BadInput(
            f"there is no {kind} {name!r}{place}", remedy=f"see what there is: mlplatform get {kind}"
        )
    code = EXIT_OK if all(_ready(item) == "True" for item in found) else EXIT_ERROR
    if as_json:
        output.print_json([_as_json(item) for item in found])
    elif name:
        for item in found:
            _describe(cluster, item)
    else:
        _table(found)
    return code


def _wanted(what: str | None) -> tuple[str, str]:
    """The kind and the name that were asked for; empty for all. A kind may be given as kubectl takes it."""
    from mlflow_platform.model import DOCUMENTS
    from mlflow_platform.model.nearest import suggestion

    kind, _, name = (what or "").partition("/")
    names = {n.lower(): k for k, m in DOCUMENTS.items() for n in (k, m.plural, *m.short_names)}
    if kind and kind.lower() not in names:
        raise BadInput(f"there is no kind {kind!r}", remedy=suggestion(kind, DOCUMENTS))
    return names.get(kind.lower(), ""), name


def _condition(item: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    conditions = (item.get("status") or {}).get("conditions", ())
    found: Mapping[str, Any] = next((c for c in conditions if c["type"] == type_), {})
    return found


def _ready(item: Mapping[str, Any]) -> str:
    """As the condition says of this generation; Unknown where the operator has not seen it."""
    seen = (item.get("status") or {}).get("observedGeneration") == item["metadata"].get("generation")
    return str(_condition(item, "Ready").get("status", "Unknown")) if seen else "Unknown"


def _as_json(item: Mapping[str, Any]) -> dict[str, Any]:
    metadata = item["metadata"]
    return {
        "kind": item["kind"],
        "namespace": metadata.get("namespace"),
        "name": metadata["name"],
        "ready": _ready(item),
        "status": item.get("status") or {},
    }


def _table(found: Sequence[Mapping[str, Any]]) -> None:
    if not found:
        click.echo("no documents")
        return
    rows = [
        (
            item["metadata"].get("namespace", ""),
            f"{item['kind']}/{item['metadata']['name']}",
            _ready(item),
            str(_condition(item, "Ready").get("reason", "")),
            " ".join(str(_condition(item, "Ready").get("message", "")).split()),
        )
        for item in found
    ]
    head = ("NAMESPACE", "DOCUMENT", "READY", "REASON", "MESSAGE")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(4)]
    for row in (head, *rows):
        cells = [row[i].ljust(widths[i]) for i in range(4)]
        if row[2] in _COLOURS:
            cells[2] = output.style(cells[2], _COLOURS[row[2]])
        click.echo("  ".join([*cells, row[4]]).rstrip())


def _describe(cluster: Cluster, item: Mapping[str, Any]) -> None:
    metadata, status = item["metadata"], item.get("status") or {}
    place = f" in {metadata['namespace']}" if "namespace" in metadata else ""
    click.echo(f"{output.style(item['kind'], 'blue')} {metadata['name']}{place}")
    if status.get("observedGeneration") != metadata.get("generation"):
        click.echo("  the operator has not worked on this version yet")
    for condition in status.get("conditions", ()):
        click.echo(f"  {condition['type']:<12} {condition['status']:<6} {condition['reason']}")
        if condition["message"]:
            indent = " " * 4
            click.echo(
                textwrap.fill(condition["message"], 100, initial_indent=indent, subsequent_indent=indent)
            )
    for failure in status.get("failures", ()):
        click.echo(f"  {failure['name']}: {failure['message']}")
    events = cluster.find("v1", "Event", metadata.get("namespace", "default"))
    mine = [e for e in events if e["involvedObject"].get("uid") == metadata["uid"]]
    for event in sorted(mine, key=lambda e: e.get("lastTimestamp") or "")[-10:]:
        click.echo(f"  {event['lastTimestamp']}  {event['reason']}: {event['message']}")
