"""The database, the artifact stores and the policies that arguments name: for retention and archives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_platform.cli import stores
from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    from mlflow_platform.adapters.object_store import ObjectStore
    from mlflow_platform.adapters.postgres import Database
    from mlflow_platform.adapters.s3 import S3Login
    from mlflow_platform.cli.stores import Stores
    from mlflow_platform.model.retention_policy import RetentionPolicy
    from mlflow_platform.retention.archiving import Archiver
    from mlflow_platform.retention.roots import Roots


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
    auth: Database | None = None
    """Where the logins of the server are, where that is another database."""

    def store(self, uri: str, login: S3Login | None = None) -> ObjectStore:
        """A place to archive to."""
        return stores.open_store(uri, login or self.login)

    def archiver(self, say: Callable[[str], None]) -> Archiver | None:
        """The archives of the policies; None where none of them archives."""
        if all(policy.spec.archive is None for policy in self.policies):
            return None
        from mlflow_platform.archive.retained import Retained

        places = {
            policy.metadata.name: self.store(
                policy.spec.archive.destination, self.archives.get(policy.metadata.name)
            )
            for policy in self.policies
            if policy.spec.archive is not None
        }
        return Retained(self.database, self.plain or self.roots, places, say)


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
    from mlflow_platform.adapters.postgres import Database
    from mlflow_platform.model.retention_policy import RetentionPolicy

    if needs_policies and not paths:
        raise BadInput("no policies given", remedy="name a folder or files with RetentionPolicy documents")
    documents = stores.read(paths)
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
    found = stores.find(server, documents, secrets)
    whole = any(policy.spec.versions == "purge" for policy in chosen)
    site = Site(
        Database(found.database),
        _roots(found, all_versions=whole),
        chosen,
        asker(found),
        found.login,
        _roots(found, all_versions=False) if whole else None,
        auth=Database(found.auth) if found.auth and found.auth != found.database else None,
    )
    site = replace(site, archives=_archive_logins(site, secrets))
    try:
        yield site
    finally:
        site.roots.close()
        if site.plain is not None:
            site.plain.close()


def _archive_logins(site: Site, secrets: str | None) -> dict[str, S3Login]:
    """Logins of archives that are elsewhere than the artifacts, by policies."""
    from mlflow_platform.adapters.s3 import S3Login

    source = stores.secret_source(secrets)
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


def _roots(found: Stores, *, all_versions: bool) -> Roots:
    from mlflow_platform.retention.roots import Roots

    def store(uri: str) -> ObjectStore:
        return stores.open_store(uri, found.login, all_versions=all_versions)

    return Roots(store(found.destination) if found.destination else None, [store(u) for u in found.roots])


def asker(found: Stores) -> Callable[[], None] | None:
    """A light request that goes through login and database, for `maxP99Factor`."""
    uri = found.tracking_uri
    if uri is None or not uri.startswith(("http://", "https://")):
        return None
    import urllib3

    from mlflow_platform.adapters.mlflow import tls

    http = urllib3.PoolManager(timeout=5.0, retries=False, ssl_context=tls(found.ca))
    login = urllib3.make_headers(basic_auth=":".join(found.client)) if found.client else {}
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
