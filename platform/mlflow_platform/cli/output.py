"""How commands print: colours and progress on a terminal only, JSON on request."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_platform.errors import EXIT_ERROR, EXIT_OK

if TYPE_CHECKING:
    from mlflow_platform.apply.execute import Result
    from mlflow_platform.cli.targets import Site
    from mlflow_platform.plan.engine import Plan


def style(text: str, colour: str) -> str:
    """Coloured text; click drops the colours where the output is no terminal."""
    return click.style(text, fg=colour)


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def write_private(path: Path, data: Any) -> None:
    """Write JSON to a file of mode 0600, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(data, file, indent=1)
    temporary.replace(path)


def print_plans(plans: Sequence[tuple[Site, Plan]], as_json: bool) -> None:
    """Plans by server, with a heading each where there are several; as JSON with the requests they took."""
    from mlflow_platform.plan import render

    if as_json:
        found = [
            {
                "server": site.server,
                "uri": site.target.address,
                "requests": {k: site.target.api.sent.get(k, 0) for k in ("reads", "writes")},
                **render.as_json(plan),
            }
            for site, plan in plans
        ]
        print_json({"servers": found})
        return
    for site, plan in plans:
        if len(plans) > 1:
            click.echo(style(f"{site.server} ({site.target.address})", "blue"))
        for line in render.as_text(plan, style):
            click.echo(line)


@contextmanager
def progress(total: int, quiet: bool) -> Iterator[Callable[[Result], None]]:
    """Report results as they come: a bar on a terminal, failures as lines in any case."""

    def failed(result: Result) -> None:
        if result.error is not None and not quiet:
            click.echo(f"{style('failed:', 'red')} {result.change.key}: {result.error}", err=True)

    if quiet or not sys.stderr.isatty() or total < 2:
        yield failed
        return
    with click.progressbar(length=total, label="Applying", file=sys.stderr) as bar:

        def report(result: Result) -> None:
            failed(result)
            bar.update(1)

        yield report


def print_results(outcome: Sequence[tuple[str, Sequence[Result]]], as_json: bool) -> int:
    """The results of an apply by server; the exit code."""
    if as_json:
        print_json({"servers": [_server(server, results) for server, results in outcome]})
    else:
        for server, results in outcome:
            done = [r for r in results if r.error is None]
            counts: dict[str, int] = {}
            for result in done:
                counts[result.change.action.past] = counts.get(result.change.action.past, 0) + 1
            text = ", ".join(f"{n} {word}" for word, n in counts.items()) or "nothing to change"
            failed = len(results) - len(done)
            end = style(f"; {failed} failed: apply again when the cause is mended", "red") if failed else ""
            click.echo(f"Applied to {server}: {text}{end}.")
    bad = any(r.error is not None for _, results in outcome for r in results)
    return EXIT_ERROR if bad else EXIT_OK


def _server(server: str, results: Sequence[Result]) -> dict[str, Any]:
    return {
        "server": server,
        "results": [
            {
                "action": str(r.change.action),
                "kind": r.change.key.kind,
                "workspace": r.change.key.workspace,
                "name": r.change.key.name,
                "outcome": r.outcome,
                **({"what": r.error.problem.what, "remedy": r.error.problem.remedy} if r.error else {}),
            }
            for r in results
        ],
    }
