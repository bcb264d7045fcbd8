"""`retention plan | run | status | undo`: thin over `mlflow_platform.retention`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlflow_platform.cli import output
from mlflow_platform.cli.arguments import PATHS
from mlflow_platform.errors import EXIT_DIFFERENCES, EXIT_ERROR, EXIT_OK, BadInput

if TYPE_CHECKING:
    from mlflow_platform.adapters.object_store import ObjectStore
    from mlflow_platform.adapters.postgres import Database
    from mlflow_platform.adapters.s3 import S3Login
    from mlflow_platform.model.retention_policy import RetentionPolicy
    from mlflow_platform.model.tracking_server import TrackingServer
    from mlflow_platform.retention.archiving import Archiver
    from mlflow_platform.retention.report import Report
    from mlflow_platform.retention.roots import Roots

F = TypeVar("F", bound=Callable[..., Any])

paths_argument = click.argument("paths", nargs=-1, type=PATHS)
policy_option = click.option("--policy", "names", multiple=True, metavar="NAME", help="Only this policy.")
server_option = click.option(
    "--server", default="default", show_default=True, metavar="NAME", help="The TrackingServer."
)
secrets_option = click.option("--secrets", metavar="DIR|env:PREFIX", help="Where secret values are.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("retention")
def retention_command() -> None:
    """Delete old runs, traces, models and experiments by RetentionPolicy documents.

    Database and artifact stores come from the TrackingServer document's spec.database and spec.artifacts;
    for the server `default` without one, from the variables that a server is started with
    (MLFLOW_BACKEND_STORE_URI or PGHOST and its kin, MLFLOW_ARTIFACTS_DESTINATION, MLFLOW_S3_ENDPOINT_URL,
    AWS_*), else from the local stack. docs/retention.md tells how nothing is lost.
    """


@retention_command.command("plan")
@paths_argument
@policy_option
@server_option
@secrets_option
@click.option("--no-sizes", is_flag=True, help="Do not ask the stores for objects, bytes and orphans.")
@json_option
def plan_command(
    paths: tuple[Path, ...],
    names: tuple[str, ...],
    server: str,
    secrets: str | None,
    no_sizes: bool,
    as_json: bool,
) -> int:
    """Show what `run` would quarantine and purge now, by experiment, and change nothing.

    Exit code 0: nothing, 2: something, 1: error.

    \b
    Examples:
      mlplatform retention plan policies
      mlplatform retention plan policies --policy nightly --json
    """
    from mlflow_platform.retention.engine import Engine

    with opened(paths, names, server, secrets) as site:
        report = Engine(site.database, site.roots).plan(site.policies, sizes=not no_sizes)
    _print(report, as_json)
    return EXIT_OK if report.empty else EXIT_DIFFERENCES


@retention_command.command("run")
@paths_argument
@policy_option
@server_option
@secrets_option
@click.option("--allow-destructive", metavar="HASH", help="Let the choice of this hash pass the brake.")
@click.option("--claim", is_flag=True, help="Mark unmarked roots although this database is a copy.")
@json_option
def run_command(
    paths: tuple[Path, ...],
    names: tuple[str, ...],
    server: str,
    secrets: str | None,
    allow_destructive: str | None,
    claim: bool,
    as_json: bool,
) -> int:
    """Quarantine what the policies choose, and purge what has been in quarantine long enough.

    Safe to interrupt at any point and while the server is serving: the next run finishes what is left.
    Exit code 0: done, 1: something is left (it is in the journal), 3: a brake stopped it.

    \b
    Examples:
      mlplatform retention run policies
      mlplatform retention run policies --allow-destructive 0a1b2c3d4e5f
    """
    from mlflow_platform.retention.engine import Engine

    with opened(paths, names, server, secrets) as site, progress(quiet=as_json) as (say, count):
        engine = Engine(site.database, site.roots, site.ask, say, count, archiver=site.archiver(say))
        report = engine.run(site.policies, allowed=allow_destructive, claim_roots=claim)
    _print(report, as_json)
    return EXIT_ERROR if report.problems else EXIT_OK


@retention_command.command("status")
@paths_argument
@server_option
@secrets_option
@json_option
def status_command(paths: tuple[Path, ...], server: str, secrets: str | None, as_json: bool) -> None:
    """Show what is in quarantine, what waits in the journal and why, and how the last runs ended.

    \b
    Example:
      mlplatform retention status --json | jq .problems
    """
    from mlflow_platform.retention.held import status

    with opened(paths, (), server, secrets, needs_policies=False) as site:
        found = status(site.database, site.roots)
    if as_json:
        output.print_json(found)
        return
    click.echo(f"installation {found['installation'] or '-'}, schema {found['schema']}")
    for uri, whose in found["roots"].items():
        click.echo(f"  root {uri}: {'not marked yet' if whose is None else f'of installation {whose}'}")
    for one in found["quarantine"]:
        click.echo(
            f"  in quarantine: {one['count']:,} {one['kind']}s ({one['policy']}, since {one['since']})"
        )
    for one in found["journal"]:
        size = f"{one['objects']:,} objects, {one['bytes']:,} bytes gone"
        click.echo(f"  {one['state']}: {one['count']:,} {one['kind']}s; {size}")
    for one in found["problems"]:
        until = f", until {one['waitsUntil']}" if one["waitsUntil"] else ""
        click.echo(output.style(f"  {one['kind']} {one['id']}: {one['problem']}{until}", "red"))
    for one in found["runs"]:
        click.echo(f"  run of {one['started']}: {one['outcome'] or 'not finished'}")


@retention_command.command("undo")
@paths_argument
@click.option("--policy", metavar="NAME", help="Only what this policy quarantined.")
@click.option("--id", "ids", multiple=True, metavar="ID", help="Only this run, logged model or version.")
@server_option
@secrets_option
@json_option
def undo_command(
    paths: tuple[Path, ...],
    policy: str | None,
    ids: tuple[str, ...],
    server: str,
    secrets: str | None,
    as_json: bool,
) -> None:
    """Bring back what is still in quarantine. No policy chooses it again.

    What is purged is gone. A version's id is WORKSPACE/MODEL/NUMBER.

    \b
    Examples:
      mlplatform retention undo
      mlplatform retention undo --id 0f3d9c1e5a7b4d2f8e6c9a1b3d5f7e90
    """
    from mlflow_platform.retention.held import undo

    with opened(paths, (), server, secrets, needs_policies=False) as site:
        counts = undo(site.database, policy=policy, ids=ids)
    if as_json:
        output.print_json({"restored": counts})
        return
    text = ", ".join(f"{count:,} {kind}s" for kind, count in counts.items() if count)
    click.echo(f"Brought back {text}." if text else "Nothing is in quarantine.")


@dataclass(frozen=True)
class _Site:
    database: Database
    roots: Roots
    policies: Sequence[RetentionPolicy]
    ask: Callable[[], None] | None
    login: S3Login
    """That of the artifacts."""
    plain: Roots | None = None
    """The roots without old versions of objects, where `roots` lists those."""
    archives: Mapping[str, S3Login] = field(default_factory=dict)
    """By policies, where their archives have a login of their own."""

    def store(self, uri: str, login: S3Login | None = None) -> ObjectStore:
        """A place to archive to."""
        return _store(uri, login or self.login)

    def archiver(self, say: Callable[[str], None]) -> Archiver | None:
        """The archives of the policies; None where none of them archives."""
        from mlflow_platform.archive.retained import Retained

        stores = {
            policy.metadata.name: self.store(
                policy.spec.archive.destination, self.archives.get(policy.metadata.name)
            )
            for policy in self.policies
            if policy.spec.archive is not None
        }
        return Retained(self.database, self.plain or self.roots, stores, say) if stores else None


@contextmanager
def opened(
    paths: tuple[Path, ...],
    names: tuple[str, ...],
    server: str,
    secrets: str | None,
    *,
    needs_policies: bool = True,
) -> Iterator[_Site]:
    """The database, the stores and the policies that the arguments name."""
    from mlflow_platform.config import load
    from mlflow_platform.model.retention_policy import RetentionPolicy
    from mlflow_platform.model.tracking_server import TrackingServer

    if needs_policies and not paths:
        raise BadInput("no policies given", remedy="name a folder or files with RetentionPolicy documents")
    configuration = load(paths) if paths else None
    documents = [one.document for one in configuration.documents] if configuration else []
    policies = sorted(
        (d for d in documents if isinstance(d, RetentionPolicy) and d.spec.server == server),
        key=lambda policy: policy.metadata.name,
    )
    for name in names:
        if name not in {policy.metadata.name for policy in policies}:
            raise BadInput(f"no RetentionPolicy for {server} is called {name}", remedy="correct --policy")
    chosen = [p for p in policies if not names or p.metadata.name in names]
    if needs_policies and not chosen:
        raise BadInput(
            f"no RetentionPolicy document is about {server}", remedy="name other files, or --server"
        )
    described = next(
        (d for d in documents if isinstance(d, TrackingServer) and d.metadata.name == server), None
    )
    whole = any(policy.spec.versions == "purge" for policy in chosen)
    if described is not None and described.spec.database is not None:
        site = _documented(described, secrets, chosen, all_versions=whole)
    elif server == "default":
        site = _surrounding(chosen, all_versions=whole)
    else:
        raise BadInput(
            f"there is no TrackingServer document {server!r} with spec.database",
            remedy="add it, so that the database and the artifact stores are known",
        )
    site = replace(site, archives=_archive_logins(site, secrets))
    try:
        yield site
    finally:
        site.roots.close()


def _archive_logins(site: _Site, secrets: str | None) -> dict[str, S3Login]:
    """Logins of archives that are elsewhere than the artifacts, by policies."""
    from mlflow_platform.adapters.s3 import S3Login
    from mlflow_platform.config.secrets import SecretSource

    source = SecretSource(secrets, os.environ, output.note)
    found: dict[str, S3Login] = {}
    for policy in site.policies:
        archive = policy.spec.archive
        if archive is None:
            continue
        key, secret = site.login.access_key, site.login.secret_key
        if archive.accessKeySecretRef is not None and archive.secretKeySecretRef is not None:
            refs = (archive.accessKeySecretRef, archive.secretKeySecretRef)
            key, secret = (source.resolve(r.name, r.key, policy.metadata.namespace) for r in refs)
        endpoint = archive.endpoint or site.login.endpoint
        found[policy.metadata.name] = S3Login(endpoint, archive.region or site.login.region, key, secret)
    return found


def _documented(
    document: TrackingServer, secrets: str | None, policies: Sequence[RetentionPolicy], *, all_versions: bool
) -> _Site:
    from mlflow_platform.adapters.postgres import Database
    from mlflow_platform.adapters.s3 import S3Login
    from mlflow_platform.config.secrets import SecretSource

    source = SecretSource(secrets, os.environ, output.note)

    def value(ref: Any) -> str | None:
        return source.resolve(ref.name, ref.key, document.metadata.namespace) if ref else None

    spec = document.spec
    if spec.artifacts is None:
        raise BadInput(
            f"TrackingServer {document.metadata.name} has no spec.artifacts",
            remedy="write where its artifacts are: spec.artifacts.destination",
        )
    login = S3Login(
        spec.artifacts.endpoint,
        spec.artifacts.region,
        value(spec.artifacts.accessKeySecretRef),
        value(spec.artifacts.secretKeySecretRef),
    )
    where = (spec.artifacts.destination, spec.artifacts.roots)
    roots = _roots(*where, login, all_versions=all_versions)
    plain = _roots(*where, login, all_versions=False) if all_versions else None
    user = value(spec.credentials.usernameSecretRef) if spec.credentials else None
    password = value(spec.credentials.passwordSecretRef) if spec.credentials else None
    database = Database(value(spec.database.uriSecretRef) or "" if spec.database else "")
    return _Site(database, roots, policies, _asker(spec.trackingUri, user, password), login, plain)


def _surrounding(policies: Sequence[RetentionPolicy], *, all_versions: bool) -> _Site:
    """The server of the environment, else the local stack."""
    from mlflow_platform.adapters.postgres import Database
    from mlflow_platform.adapters.s3 import S3Login

    environment: Mapping[str, str] = os.environ
    database = Database.of_environment(environment)
    if database is not None:
        login = S3Login(environment.get("MLFLOW_S3_ENDPOINT_URL"), environment.get("AWS_DEFAULT_REGION"))
        default = environment.get("MLFLOW_DEFAULT_ARTIFACT_ROOT", "")
        direct = [default] if default and not default.startswith("mlflow-artifacts:") else []
        where = (environment.get("MLFLOW_ARTIFACTS_DESTINATION"), direct)
        roots = _roots(*where, login, all_versions=all_versions)
        plain = _roots(*where, login, all_versions=False) if all_versions else None
        ask = _asker(
            environment.get("MLFLOW_TRACKING_URI"),
            environment.get("MLFLOW_TRACKING_USERNAME"),
            environment.get("MLFLOW_TRACKING_PASSWORD"),
        )
        return _Site(database, roots, policies, ask, login, plain)
    from mlflow_platform.local.folder import find
    from mlflow_platform.local.stack import Stack

    stack = Stack(find())
    if not stack.status().exists:
        raise BadInput(
            "no database: none is given and no local stack is running",
            remedy="name a TrackingServer document with spec.database, set MLFLOW_BACKEND_STORE_URI, "
            "or start one with `mlplatform up`",
        )
    local = stack.endpoints()
    login = S3Login(local.s3_endpoint, "us-east-1", local.s3_access_key, local.s3_secret_key)
    return _Site(
        Database(local.database_uri),
        _roots(f"s3://{local.s3_bucket}", [], login, all_versions=all_versions),
        policies,
        _asker(local.tracking_uri, local.username, local.password),
        login,
        _roots(f"s3://{local.s3_bucket}", [], login, all_versions=False) if all_versions else None,
    )


def _roots(destination: str | None, direct: Sequence[str], login: S3Login, *, all_versions: bool) -> Roots:
    from mlflow_platform.retention.roots import Roots

    def store(uri: str) -> ObjectStore:
        return _store(uri, login, all_versions=all_versions)

    return Roots(store(destination) if destination else None, [store(uri) for uri in direct])


def _store(uri: str, login: S3Login, *, all_versions: bool = False) -> ObjectStore:
    from mlflow_platform.adapters.files import FileStore
    from mlflow_platform.adapters.s3 import S3Store

    return S3Store(uri, login, all_versions=all_versions) if uri.startswith("s3://") else FileStore(uri)


def _asker(uri: str | None, username: str | None, password: str | None) -> Callable[[], None] | None:
    """A light request that goes through login and database, for `maxP99Factor`."""
    if uri is None or not uri.startswith(("http://", "https://")):
        return None
    import urllib3

    http = urllib3.PoolManager(timeout=5.0, retries=False)
    login = urllib3.make_headers(basic_auth=f"{username}:{password}") if username else {}
    # Experiment 0 always exists (mlflow/store/tracking/sqlalchemy_store.py, `_create_default_experiment`).
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get?experiment_id=0"

    def ask() -> None:
        if http.request("GET", address, headers=login).status >= 500:
            raise OSError("the server failed")

    return ask


@contextmanager
def progress(*, quiet: bool) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """Lines about what is going on and a count, on a terminal only."""
    from mlflow_platform.cli.local import output_line

    with output_line(quiet=quiet or not sys.stderr.isatty()) as say:
        yield say, lambda done, whole: say(f"{done:,} of {whole:,}")


def _print(report: Report, as_json: bool) -> None:
    if as_json:
        output.print_json(report.as_json())
        return
    future = "would be " if report.dry else ""
    for experiment, share in sorted(report.experiments.items(), key=lambda item: item[0] or -1):
        name = f"{share.name} ({experiment})" if experiment is not None else "no experiment"
        parts = [f"{n:,} {kind}s {future}quarantined" for kind, n in share.quarantined.items()]
        parts += [f"{n:,} {kind}s {future}purged" for kind, n in share.purged.items()]
        if share.objects:
            parts.append(f"{share.objects:,} objects, {share.bytes:,} bytes")
        click.echo(f"{output.style(name, 'blue')}: {', '.join(parts)}")
    if report.empty:
        click.echo("Nothing to delete.")
    for reason, count in report.kept.items():
        if count:
            click.echo(f"kept: {count:,} ({reason})")
    for note in report.notes:
        click.echo(f"note: {note}")
    if report.stopped:
        click.echo(f"stopped: {report.stopped}")
    if report.dry:
        click.echo(f"hash: {report.hash}")
    for problem in report.problems:
        click.echo(f"{output.style('problem:', 'red')} {problem}", err=True)
    if report.waiting:
        click.echo(f"{report.waiting:,} places still hold objects; the next run goes on with them", err=True)
