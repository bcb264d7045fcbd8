"""How commands print: colours and progress on a terminal only, JSON on request."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_platform.errors import EXIT_ERROR, EXIT_OK, BadInput

if TYPE_CHECKING:
    from mlflow_platform.apply.execute import Result
    from mlflow_platform.cli.targets import Site
    from mlflow_platform.errors import Problem
    from mlflow_platform.plan.engine import Plan


def style(text: str, colour: str) -> str:
    """Coloured text; click drops the colours where the output is no terminal."""
    return click.style(text, fg=colour)


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_error(name: str, exit_code: int, problems: Sequence[Problem], **more: Any) -> None:
    """What a pipeline reads where a command with `--json` ends in an error; docs/concepts.md describes it."""
    found = {"type": name, "exit_code": exit_code, **more, "problems": [_problem(p) for p in problems]}
    print_json({"error": found})


def _problem(problem: Problem) -> dict[str, Any]:
    """One problem with all its keys; what is not known is null."""
    place = problem.where
    return {
        "what": problem.what,
        "remedy": problem.remedy or None,
        "file": place.file if place else None,
        "line": (place.line or None) if place else None,
        "column": (place.column or None) if place else None,
    }


@contextmanager
def using(path: Path) -> Iterator[None]:
    """Read or write what the user named: `BadInput` with the path where the system refuses it."""
    try:
        yield
    except OSError as error:
        raise unusable(path, error) from error


def unusable(path: Path | str, error: OSError) -> BadInput:
    """The message for a path of the command line that the system refuses."""
    reason = error.strerror or type(error).__name__
    # The system names a part of the path, or a file within it, where that is what it refused.
    part = f" ({error.filename})" if error.filename and str(error.filename) != str(path) else ""
    return BadInput(f"cannot use {path}: {reason.lower()}{part}", remedy=_remedy(error))


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "check the path; the folder it is in must exist"
        case errno.ENOTDIR | errno.EEXIST:
            return "a part of the path is a file where a folder is needed; name another path"
        case errno.EISDIR:
            return "this is a folder; name a file"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "name a path that you may read and write, or have its permissions changed"
        case errno.ENOSPC | errno.EDQUOT:
            return "make room, or name a path on another disk"
        case _:
            return "name another path"


def write_private(path: Path, data: Any) -> None:
    """Write JSON to a file of mode 0600, whole or not at all. Raises `BadInput` where that cannot be."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with using(path):
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(data, file, indent=1)
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from error


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


def note(text: str) -> None:
    """Something worth knowing that is neither the result nor an error."""
    click.echo(f"note: {text}", err=True)


@contextmanager
def progress(total: int, quiet: bool) -> Iterator[Callable[[Result], None]]:
    """A bar that every result moves on, on a terminal. Failures are shown at the end: until then a change
    whose outcome is unknown may still be found done."""
    if quiet or not sys.stderr.isatty() or total < 2:
        yield lambda _: None
        return
    with click.progressbar(length=total, label="Applying", file=sys.stderr) as bar:
        yield lambda _: bar.update(1)


#: Where `print_results` leaves its results instead of printing them.
_collected: ContextVar[list[dict[str, Any]] | None] = ContextVar("_collected", default=None)


@contextmanager
def results_collected() -> Iterator[list[dict[str, Any]]]:
    """Results by server, not printed: for a command that applies, and prints one JSON document of its own."""
    found: list[dict[str, Any]] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def print_results(outcome: Sequence[tuple[str, Sequence[Result]]], as_json: bool) -> int:
    """The results of an apply by server; the exit code."""
    servers = [_server(server, results) for server, results in outcome]
    collected = _collected.get()
    if collected is not None:
        collected += servers
    elif as_json:
        print_json({"servers": servers})
    else:
        for server, results in outcome:
            done = [r for r in results if r.error is None]
            for result in results:
                if result.error is not None:
                    click.echo(f"{style('failed:', 'red')} {result.change.key}: {result.error}", err=True)
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
