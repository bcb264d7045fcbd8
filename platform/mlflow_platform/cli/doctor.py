"""`doctor`: what is wrong with a server, and what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mlflow_platform.cli import output
from mlflow_platform.cli.local import data_option, json_option, stack_of
from mlflow_platform.errors import EXIT_ERROR, EXIT_OK

_SIGNS = {"ok": ("ok   ", "green"), "fault": ("FAULT", "red"), "skipped": ("-    ", "yellow")}


@click.command("doctor")
@click.option(
    "--tracking-uri",
    help="Check this server from outside, with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
)
@data_option
@json_option
def doctor_command(tracking_uri: str | None, data: Path | None, as_json: bool) -> int:
    """Check server, login, databases, schema, bucket, disk, clock and versions.

    Each fault is named with its remedy. Without --tracking-uri it is the local stack that is checked,
    inside and out. Exit code 0: no fault, 1: at least one.

    \b
    Examples:
      mlplatform doctor
      mlplatform doctor --tracking-uri https://mlflow.example.com
      mlplatform doctor --json | jq '.checks[] | select(.outcome == "fault")'
    """
    from mlflow_platform.local import doctor

    if tracking_uri:
        login = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
        found = doctor.check_server(tracking_uri, *login)
    else:
        found = doctor.check_stack(stack_of(data), os.environ)
    checks = []
    for check in found:
        checks.append(check)
        if not as_json:
            sign, colour = _SIGNS[check.outcome]
            click.echo(f"{output.style(sign, colour)} {check.name:<22} {check.found}")
            if check.remedy:
                click.echo(f"      {'':<22} {check.remedy}")
    good = doctor.healthy(checks)
    if as_json:
        output.print_json(
            {
                "healthy": good,
                "checks": [
                    {"name": c.name, "outcome": c.outcome, "found": c.found, "remedy": c.remedy}
                    for c in checks
                ],
            }
        )
    return EXIT_OK if good else EXIT_ERROR
