"""`plan`, `apply` and `drift`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlflow_platform.cli import output
from mlflow_platform.cli.arguments import PATHS
from mlflow_platform.cli.targets import Connection, Site, connection, sites
from mlflow_platform.errors import EXIT_DIFFERENCES, EXIT_ERROR, EXIT_OK, BadDocuments, BadInput, Problem

if TYPE_CHECKING:
    from mlflow_platform.apply.execute import Result
    from mlflow_platform.apply.rounds import Round, Scope, Target
    from mlflow_platform.config import Configuration
    from mlflow_platform.plan.engine import Plan
    from mlflow_platform.plan.saved import SavedPlan

F = TypeVar("F", bound=Callable[..., Any])

_SHARED = (
    click.argument("paths", nargs=-1, type=PATHS),
    click.option(
        "--tracking-uri",
        metavar="URI",
        help="The server `default`. Its login comes from "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
    ),
    click.option("--project", metavar="NAME", help="Owner of the objects. Default: mlplatform.toml."),
    click.option("--secrets", metavar="DIR|env:PREFIX", help="Where secret values are."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)
_TAKEOVER = (
    click.option("--adopt", is_flag=True, help="Also mark unowned objects that equal their documents."),
    click.option(
        "--adopt-from",
        multiple=True,
        metavar="OWNER",
        help="Take over objects of another owner, for example project:old.",
    ),
)


def _with(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command("plan")
@_with(*_SHARED, *_TAKEOVER)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Save the plan for `apply FILE`."
)
def plan_command(
    paths: tuple[Path, ...],
    tracking_uri: str | None,
    project: str | None,
    secrets: str | None,
    as_json: bool,
    adopt: bool,
    adopt_from: tuple[str, ...],
    out: Path | None,
) -> int:
    """Show what apply would do, and do nothing.

    A folder is a whole configuration: owned objects without a document are forgotten or deleted, as their
    deletionPolicy said. Single files never give anything up. Exit code 0: nothing to change, 2: changes,
    1: error.

    \b
    Examples:
      mlplatform plan manifests/examples
      mlplatform plan config --tracking-uri https://mlflow.example.com --secrets env:MLP
      mlplatform plan config --out today.plan && mlplatform apply today.plan
    """
    from mlflow_platform.plan import saved

    configuration = _load(paths, quiet=as_json)
    scope = _scope(configuration, adopt, adopt_from)
    where = connection(tracking_uri, secrets)
    found = [(site, _round(site, scope)) for site in sites(configuration, project, where)]
    if out:
        plans = [
            saved.SavedPlan(
                s.server,
                s.target.address,
                r.plan.owner,
                r.plan,
                r.desired,
                s.document.model_dump(mode="json", exclude_none=True) if s.document else None,
                len(r.plan.problems),
            )
            for s, r in found
        ]
        output.write_private(out, saved.dump_file(plans))
    return _print_plans([(site, round_.plan) for site, round_ in found], as_json)


@click.command("apply")
@_with(*_SHARED, *_TAKEOVER)
@click.option("--allow-destructive", metavar="HASH", help="Let the plan of this hash pass the brake.")
@click.option("--keep-going", is_flag=True, help="Apply the rest although some objects have problems.")
def apply_command(
    paths: tuple[Path, ...],
    tracking_uri: str | None,
    project: str | None,
    secrets: str | None,
    as_json: bool,
    adopt: bool,
    adopt_from: tuple[str, ...],
    allow_destructive: str | None,
    keep_going: bool,
) -> int:
    """Bring the server to the state that the documents declare, or carry out a saved plan.

    Safe to repeat and to interrupt: the next apply finishes what is left, and one with nothing to do
    writes nothing. Exit code 0: done, 1: some objects failed, 3: a brake stopped it.

    \b
    Examples:
      mlplatform apply manifests/examples
      mlplatform apply today.plan
      mlplatform apply config --allow-destructive 0a1b2c3d4e5f
    """
    where = connection(tracking_uri, secrets)
    plans = _saved(paths)
    if plans is not None:
        if project or adopt or adopt_from:
            raise BadInput(
                "a saved plan knows its project and what it adopts",
                remedy="leave those options out, or plan again",
            )
        return _apply_saved(plans, where, allow_destructive, keep_going, as_json)
    configuration = _load(paths, quiet=as_json)
    scope = _scope(configuration, adopt, adopt_from)
    found = sites(configuration, project, where)
    return _apply(found, scope, allow_destructive, keep_going, as_json)


@click.command("drift")
@_with(*_SHARED)
def drift_command(
    paths: tuple[Path, ...],
    tracking_uri: str | None,
    project: str | None,
    secrets: str | None,
    as_json: bool,
) -> int:
    """Show where the server differs from the documents; never proposes to give anything up.

    Objects with managementPolicy ObserveOnly count too. Exit code 0: no drift, 2: drift, 1: error.

    \b
    Examples:
      mlplatform drift manifests/examples
      mlplatform drift manifests/examples --json
    """
    from mlflow_platform.apply.rounds import Scope

    found = []
    for site in sites(_load(paths, quiet=as_json), project, connection(tracking_uri, secrets)):
        plan = _round(site, Scope(prune=False)).plan
        found.append((site, replace(plan, changes=(*plan.changes, *plan.held), held=())))
    return _print_plans(found, as_json)


def apply_documents(
    paths: Sequence[Path], *, tracking_uri: str, username: str, password: str, secrets_dir: Path
) -> int:
    """Apply documents to a server whose login is known; prints the outcome. The exit code of `apply`."""
    configuration = _load(tuple(paths), quiet=False)
    where = Connection(tracking_uri, username, password, str(secrets_dir), explicit=True)
    scope = _scope(configuration, adopt=False, adopt_from=())
    return _apply(sites(configuration, None, where), scope, None, keep_going=False, as_json=False)


def _load(paths: tuple[Path, ...], *, quiet: bool) -> Configuration:
    from mlflow_platform.config import load

    if not paths:
        raise BadInput("no documents given", remedy="name a folder or files, for example manifests/examples")
    configuration = load(paths)
    for note in () if quiet else configuration.notes:
        click.echo(f"note: {note}", err=True)
    return configuration


def _scope(configuration: Configuration, adopt: bool, adopt_from: tuple[str, ...]) -> Scope:
    from mlflow_platform.apply.rounds import Scope

    return Scope(configuration.whole, frozenset(adopt_from), adopt)


def _round(site: Site, scope: Scope) -> Round:
    from mlflow_platform.apply.rounds import plan_round

    round_ = plan_round(site.target, site.desired, scope)
    return replace(round_, plan=_placed(site, round_.plan))


def _placed(site: Site, plan: Plan) -> Plan:
    return replace(plan, problems=tuple(replace(p, problem=site.placed(p)) for p in plan.problems))


def _print_plans(found: Sequence[tuple[Site, Plan]], as_json: bool) -> int:
    output.print_plans(found, as_json)
    if any(plan.problems for _, plan in found):
        return EXIT_ERROR
    return EXIT_OK if all(plan.empty for _, plan in found) else EXIT_DIFFERENCES


def _apply(found: Sequence[Site], scope: Scope, allowed: str | None, keep_going: bool, as_json: bool) -> int:
    """Plan all servers, refuse before the first write what must be refused, then apply each."""
    from mlflow_platform.apply.execute import apply_whole
    from mlflow_platform.plan.brakes import check

    rounds = [(site, _round(site, scope)) for site in found]
    problems = [p.problem for _, r in rounds for p in r.plan.problems]
    _refuse(problems, keep_going)
    for problem in problems:
        click.echo(f"{output.style('error:', 'red')} {problem}", err=True)
    for site, round_ in rounds:
        check(round_.plan, site.target.brakes, allowed)
    outcome: list[tuple[str, list[Result]]] = []
    for site, round_ in rounds:
        if round_.plan.empty:
            outcome.append((site.server, []))
            continue
        with output.progress(len(round_.plan.changes), quiet=as_json) as report:
            results = apply_whole(
                site.target,
                site.desired,
                scope,
                allowed=allowed,
                report=report,
                waiting=output.note,
                accept=lambda plan: _refuse([p.problem for p in plan.problems], keep_going),
            )
        outcome.append((site.server, results))
    code = output.print_results(outcome, as_json)
    return EXIT_ERROR if problems else code


def _refuse(problems: Sequence[Problem], keep_going: bool) -> None:
    if problems and not keep_going:
        what = f"{len(problems)} object(s) have problems; nothing was written"
        remedy = "mend them, or apply the others with --keep-going"
        raise BadDocuments([Problem(what, remedy), *problems])


def _saved(paths: tuple[Path, ...]) -> list[SavedPlan] | None:
    """The saved plans in the one file given; None when the paths are documents."""
    from mlflow_platform.plan import saved

    if len(paths) != 1 or not paths[0].is_file():
        return None
    try:
        text = paths[0].read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None  # the loader says what is wrong with it
    return saved.load_file(text) if saved.is_file(text) else None


def _apply_saved(
    plans: Sequence[SavedPlan], where: Connection, allowed: str | None, keep_going: bool, as_json: bool
) -> int:
    """See that all plans may be carried out before the first write of any."""
    from mlflow_platform.apply.execute import carry_out_saved, prepare_saved

    if any(p.problems for p in plans) and not keep_going:
        raise BadInput(
            "objects had problems when the plan was saved; nothing was written",
            remedy="mend them and plan again, or apply the others with --keep-going",
        )
    found = [(plan, _target_of(plan, where)) for plan in plans]
    for plan, target in found:
        prepare_saved(target, plan, allowed)
    outcome: list[tuple[str, list[Result]]] = []
    for plan, target in found:
        if plan.plan.empty:
            outcome.append((plan.server, []))
            continue
        with output.progress(len(plan.plan.changes), quiet=as_json) as report:
            results = carry_out_saved(target, plan, allowed=allowed, report=report, waiting=output.note)
        outcome.append((plan.server, results))
    code = output.print_results(outcome, as_json)
    return EXIT_ERROR if any(p.problems for p in plans) else code


def _target_of(plan: SavedPlan, where: Connection) -> Target:
    from mlflow_platform.adapters.servers import connect, connect_documented
    from mlflow_platform.config.secrets import SecretSource
    from mlflow_platform.model.tracking_server import TrackingServer

    source = SecretSource(where.secrets, os.environ, output.note)
    if plan.document:
        target = connect_documented(TrackingServer.model_validate(plan.document), plan.owner, source)
    else:
        target = connect(
            where.tracking_uri or plan.uri, where.username, where.password, owner=plan.owner, secrets=source
        )
    if target.address != plan.uri:
        raise BadInput(
            f"the plan was made for {plan.uri}, but the server at hand is {target.address}",
            remedy="plan again, or set MLFLOW_TRACKING_URI to the plan's server",
        )
    return target
