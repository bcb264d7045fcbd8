"""`sync` and `spool`: what the durable client has not delivered yet, and what the server refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlflow_platform.cli import output
from mlflow_platform.cli.local import json_option
from mlflow_platform.errors import EXIT_ERROR, EXIT_OK, BadInput

if TYPE_CHECKING:
    from mlflow_platform.client.spool import Spool

F = TypeVar("F", bound=Callable[..., Any])


def spool_option(command: F) -> F:
    option: Callable[[F], F] = click.option(
        "--spool",
        "base",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="A spool, or the folder above several. Default: $MLPLATFORM_SPOOL, "
        "else ~/.local/state/mlplatform/spool.",
    )
    return option(command)


def _spools(base: Path | None) -> list[Spool]:
    from mlflow_platform.client.spool import base_folder, spools

    return spools(base or base_folder())


@click.command("sync")
@spool_option
@click.option(
    "--timeout", type=click.FloatRange(0), help="Give up after so many seconds. Default: keep trying."
)
@json_option
def sync_command(base: Path | None, timeout: float | None, as_json: bool) -> int:
    """Deliver what an offline or killed program left in its spool, and wait until it is delivered.

    The login is taken from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. Exit code 0: everything is
    delivered; 1: something is left, is in quarantine, or the login is refused.

    \b
    Examples:
      mlplatform sync
      mlplatform sync --spool /data/spool --timeout 60
    """
    from mlflow_platform.client.shipper import deliver_now

    deadline = None if timeout is None else time.monotonic() + timeout
    found = []
    for spool in _spools(base):
        left = deliver_now(spool, deadline, _say_nothing if as_json else output.note)
        found.append({**_state(spool), "left": left})
    if as_json:
        output.print_json({"spools": found})
    else:
        for state in found:
            click.echo(f"{state['server']}: {'delivered' if not state['left'] else state['left']}")
            _warn(state)
        if not found:
            click.echo("There is no spool: nothing was logged through a durable+ URI.")
    return EXIT_ERROR if any(s["left"] or s["quarantined"] for s in found) else EXIT_OK


@click.group("spool")
def spool_command() -> None:
    """Look into the spools of the durable client.

    \b
    Examples:
      mlplatform spool status
      mlplatform spool quarantine
      mlplatform spool export > waiting.jsonl
    """


@spool_command.command("status")
@spool_option
@json_option
def status_command(base: Path | None, as_json: bool) -> int:
    """Show what waits to be delivered, and what was refused, by server.

    Exit code 0: nothing was lost or refused; 1: records are in quarantine, were refused by a full spool, or
    were damaged. What merely waits is no error.
    """
    states = [_state(spool) for spool in _spools(base)]
    if as_json:
        output.print_json({"spools": states})
    else:
        for state in states:
            click.echo(f"{output.style(state['server'], 'blue')}  ({state['spool']})")
            shipper = (
                "a process delivers" if state["shipper"] else "no process delivers; run `mlplatform sync`"
            )
            click.echo(
                f"  {state['records']} record(s) wait ({state['waiting_bytes']} bytes; "
                f"{state['bytes']} with artifacts, limit {state['limit']})"
            )
            if state["records"]:
                click.echo(f"  {shipper}; {state['writers']} program(s) write")
            if state["problem"]:
                click.echo(f"  {output.style('held up:', 'yellow')} {state['problem']}")
            _warn(state)
        if not states:
            click.echo("There is no spool: nothing was logged through a durable+ URI.")
    return (
        EXIT_ERROR if any(s["quarantined"] or s["refused"] or s["damaged_bytes"] for s in states) else EXIT_OK
    )


def _warn(state: dict[str, Any]) -> None:
    for count, text in (
        (state["quarantined"], "record(s) in quarantine: see `mlplatform spool quarantine`"),
        (state["refused"], "record(s) were refused, as the spool or the disk was full"),
        (state["damaged_bytes"], "byte(s) of the spool were damaged and could not be read"),
    ):
        if count:
            click.echo(f"  {output.style(str(count), 'red')} {text}")


@spool_command.command("export")
@spool_option
def export_command(base: Path | None) -> None:
    """Print every record that is not delivered, in quarantine too, as lines of JSON."""
    from mlflow_platform.client.progress import waiting

    for spool in _spools(base):
        for record in waiting(spool):
            click.echo(json.dumps(record))
        for entry in spool.quarantined():
            click.echo(json.dumps({**entry["record"], "refused": entry["error"]}))


@spool_command.command("quarantine")
@spool_option
@click.option("--retry", is_flag=True, help="Deliver them again, for instance after a permission was given.")
@click.option("--drop", is_flag=True, help="Delete them, and forget what was refused or damaged.")
@json_option
def quarantine_command(base: Path | None, retry: bool, drop: bool, as_json: bool) -> int:
    """List the records that a server refuses, with its words. Exit code 1: there are some."""
    from mlflow_platform.client import quarantine

    if retry and drop:
        raise BadInput("--retry and --drop exclude each other", remedy="choose one")
    found: list[dict[str, Any]] = []
    for spool in _spools(base):
        entries = spool.quarantined()
        found.append({"server": _server(spool), "spool": str(spool.root), "records": entries})
        if retry:
            quarantine.retry(spool)
        elif drop:
            quarantine.drop(spool)
    total = sum(len(f["records"]) for f in found)
    if as_json:
        output.print_json({"spools": found})
    else:
        for spool_found in found:
            for entry in spool_found["records"]:
                click.echo(f"{spool_found['server']}: {entry['error']}")
                click.echo(f"    {json.dumps(entry['record'])[:200]}")
        if retry or drop:
            done = "will be delivered again by `mlplatform sync`" if retry else "are deleted"
            click.echo(f"{total} record(s) {done}.")
        elif not total:
            click.echo("Nothing is in quarantine.")
    return EXIT_ERROR if total and not (retry or drop) else EXIT_OK


def _say_nothing(_: str) -> None:
    return


def _server(spool: Spool) -> str:
    """The spool's server without a password."""
    import re

    return re.sub(r"(\w+://)[^/@\s]*@", r"\1", spool.uri)


def _state(spool: Spool) -> dict[str, Any]:
    from mlflow_platform.client import quarantine
    from mlflow_platform.client.progress import waiting
    from mlflow_platform.client.spool import has_shipper, limit

    cursor = spool.cursor()
    seen = quarantine.acknowledged(spool)
    return {
        "server": _server(spool),
        "spool": str(spool.root),
        "records": sum(1 for _ in waiting(spool)),
        "waiting_bytes": spool.waiting(cursor),
        "bytes": spool.bytes(),
        "limit": limit(),
        "delivered": cursor.delivered,
        "quarantined": len(spool.quarantined()),
        "refused": spool.refused(cursor) - seen["refused"],
        "damaged_bytes": cursor.lost - seen["lost"],
        "shipper": has_shipper(spool),
        "writers": spool.writers(),
        "problem": cursor.problem,
    }


__all__ = ["spool_command", "sync_command"]
