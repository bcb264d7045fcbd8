"""The database, the artifact stores and the policies that arguments name: for retention and archives."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_platform.cli import output
from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    from mlflow_platform.adapters.object_store import ObjectStore
    from mlflow_platform.adapters.postgres import Database
    from mlflow_platform.adapters.s3 import S3Login
    from mlflow_platform.model.retention_policy import RetentionPolicy
    from mlflow_platform.model.tracking_server import TrackingServer
    from mlflow_platform.retention.archiving import Archiver
    from mlflow_platform.retention.roots import Roots

server_option = click.option(
    "--server", default="default", show_default=True, metavar="NAME", help="The TrackingServer."
)
secrets_option = click.option("--secrets", metavar="DIR|env:PREFIX", help="Where secret values are.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@dataclass(frozen=True)
class Site:
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
) -> Iterator[Site]:
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


def _archive_logins(site: Site, secrets: str | None) -> dict[str, S3Login]:
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
) -> Site:
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
    return Site(database, roots, policies, _asker(spec.trackingUri, user, password), login, plain)


def _surrounding(policies: Sequence[RetentionPolicy], *, all_versions: bool) -> Site:
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
        return Site(database, roots, policies, ask, login, plain)
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
    return Site(
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
