"""What `backup` works on: the place of backups, a platform, and databases for a drill."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_platform.cli import stores
from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    from mlflow_platform.adapters.postgres import Database
    from mlflow_platform.adapters.s3 import S3Login
    from mlflow_platform.adapters.trees import Tree
    from mlflow_platform.backup.restore import Target
    from mlflow_platform.backup.vault import Vault
    from mlflow_platform.model.backup_schedule import BackupSchedule
    from mlflow_platform.model.base import SecretReference

ACCESS_KEY, SECRET_KEY = "MLPLATFORM_BACKUP_ACCESS_KEY_ID", "MLPLATFORM_BACKUP_SECRET_ACCESS_KEY"


@contextmanager
def open_vault(
    *,
    paths: tuple[Path, ...],
    schedule: str | None,
    at: str | None,
    endpoint: str | None,
    region: str | None,
    key_file: Path | None,
    secrets: str | None,
    create: bool = False,
) -> Iterator[tuple[Vault, BackupSchedule | None]]:
    """The place that the options name, and the BackupSchedule if that says it. `create`: it may be new."""
    from mlflow_platform.adapters.trees import tree
    from mlflow_platform.backup.sealing import Key
    from mlflow_platform.backup.vault import Vault

    if (schedule is None) == (at is None):
        raise BadInput(
            "it is not said where backups are" if at is None else "--at and --schedule say it twice",
            remedy="give --at URI, or --schedule NAME with -f DOCUMENTS",
        )
    key = Key.read(key_file) if key_file else None
    if at is not None:
        place = tree(at, _login(at, endpoint, region), create=create)
        document = None
    else:
        document = _schedule(paths, str(schedule))
        source = stores.secret_source(secrets)
        where = document.spec.destination
        place = tree(where.uri, stores.described_login(where, source, document), create=create)
        reference = document.spec.encryptionKeySecretRef
        if reference is not None and key is None:
            text = source.resolve(reference.name, reference.key, document.metadata.namespace)
            key = Key.parse(text, f"the secret {reference.name}")
    try:
        yield Vault(place, key), document
    finally:
        place.close()


def _login(at: str, endpoint: str | None, region: str | None) -> S3Login:
    from mlflow_platform.adapters.s3 import S3Login

    if endpoint is not None and not at.startswith("s3://"):
        raise BadInput("--endpoint is for --at s3://...", remedy="leave it out")
    return S3Login(endpoint, region, os.environ.get(ACCESS_KEY), os.environ.get(SECRET_KEY))


def _schedule(paths: tuple[Path, ...], name: str) -> BackupSchedule:
    from mlflow_platform.model.backup_schedule import BackupSchedule

    found = [d for d in stores.read(paths) if isinstance(d, BackupSchedule)]
    for document in found:
        if document.metadata.name == name:
            return document
    known = ", ".join(sorted(d.metadata.name for d in found)) or "none"
    raise BadInput(
        f"there is no BackupSchedule {name!r} in the documents",
        remedy=f"name its files with -f, or correct --schedule (there: {known})",
    )


def reaching(schedule: BackupSchedule | None, place: Mapping[str, Any]) -> Callable[[str], Tree]:
    """Opens any address with the credentials of the backups' place."""
    from mlflow_platform.adapters.s3 import S3Login
    from mlflow_platform.adapters.trees import tree

    if schedule is None:
        login = S3Login(
            place["endpoint"], place["region"], os.environ.get(ACCESS_KEY), os.environ.get(SECRET_KEY)
        )
    else:
        login = stores.described_login(
            schedule.spec.destination, stores.secret_source(place["secrets"]), schedule
        )
    return lambda uri: tree(uri, login)


def scratch_reference(schedule: BackupSchedule | None) -> SecretReference | None:
    """Where the address of the database is that a document keeps for drills."""
    drill = schedule.spec.drill if schedule else None
    return drill.databaseUriSecretRef if drill else None


@contextmanager
def open_scratch(
    variable: str | None, schedule: BackupSchedule | None, secrets: str | None
) -> Iterator[tuple[Database, Database | None]]:
    """Empty databases: that of a variable, that of the document, else one that is started for it."""
    from mlflow_platform.adapters.postgres import Database

    if variable is not None:
        uri = os.environ.get(variable)
        if not uri:
            raise BadInput(
                f"{variable} is not set", remedy="set it to postgresql://USER:PASSWORD@HOST/DATABASE"
            )
        yield Database(uri), None
        return
    if schedule is not None and (reference := scratch_reference(schedule)) is not None:
        uri = stores.secret(stores.secret_source(secrets), reference, schedule)
        yield Database(uri or ""), None
        return
    from mlflow_platform.local.scratch import scratch_postgres

    with scratch_postgres() as server:
        yield Database(server.uri("mlflow")), Database(server.uri("mlflow_auth"))


@contextmanager
def open_platform(server: str, place: Mapping[str, Any]) -> Iterator[Target]:
    """A platform, found as `stores.find` does."""
    from mlflow_platform.adapters.postgres import Database
    from mlflow_platform.adapters.trees import tree
    from mlflow_platform.backup.create import Platform
    from mlflow_platform.backup.restore import Target

    found = stores.find(server, stores.read(place["paths"]), place["secrets"])
    platform = Platform(
        Database(found.database),
        Database(found.auth) if found.auth and found.auth != found.database else None,
        tree(found.destination, found.login) if found.destination else None,
        [tree(uri, found.login) for uri in found.roots],
        found.keys,
    )
    target = Target(platform, found.admin, stores=[stores.open_store(u, found.login) for u in found.all])
    try:
        yield target
    finally:
        platform.close()
        for store in target.stores:
            store.close()
