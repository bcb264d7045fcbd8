"""What `backup` works on: the databases, stores and keys of a platform, and the place of its backups."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_platform.cli import output
from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    from mlflow_platform.adapters.postgres import Database
    from mlflow_platform.adapters.s3 import S3Login
    from mlflow_platform.adapters.trees import Tree
    from mlflow_platform.backup.keys import ServerKeys
    from mlflow_platform.backup.restore import Target
    from mlflow_platform.backup.vault import Vault
    from mlflow_platform.config.secrets import SecretSource
    from mlflow_platform.model.backup_schedule import BackupSchedule
    from mlflow_platform.model.base import SecretReference
    from mlflow_platform.model.tracking_server import TrackingServer

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
        source = _secrets(secrets)
        where = document.spec.destination
        place = tree(where.uri, _documented_login(where, source, document), create=create)
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


def _documented_login(where: Any, source: SecretSource, document: Any) -> S3Login:
    """That of a store as documents describe one."""
    from mlflow_platform.adapters.s3 import S3Login

    return S3Login(
        where.endpoint,
        where.region,
        _value(source, where.accessKeySecretRef, document),
        _value(source, where.secretKeySecretRef, document),
    )


def _value(source: SecretSource, reference: SecretReference | None, document: Any) -> str | None:
    if reference is None:
        return None
    return source.resolve(reference.name, reference.key, document.metadata.namespace)


def _secrets(setting: str | None) -> SecretSource:
    from mlflow_platform.config.secrets import SecretSource

    return SecretSource(setting, os.environ, output.note)


def _documents(paths: tuple[Path, ...]) -> Sequence[Any]:
    from mlflow_platform.config import load

    return [one.document for one in load(paths).documents] if paths else []


def _schedule(paths: tuple[Path, ...], name: str) -> BackupSchedule:
    from mlflow_platform.model.backup_schedule import BackupSchedule

    found = [d for d in _documents(paths) if isinstance(d, BackupSchedule)]
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
        login = _documented_login(schedule.spec.destination, _secrets(place["secrets"]), schedule)
    return lambda uri: tree(uri, login)


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
    drill = schedule.spec.drill if schedule else None
    if schedule is not None and drill is not None and drill.databaseUriSecretRef is not None:
        uri = _value(_secrets(secrets), drill.databaseUriSecretRef, schedule)
        yield Database(uri or ""), None
        return
    from mlflow_platform.local.scratch import scratch_postgres

    with scratch_postgres() as server:
        yield Database(server.uri("mlflow")), Database(server.uri("mlflow_auth"))


@contextmanager
def open_platform(server: str, place: Mapping[str, Any]) -> Iterator[Target]:
    """A platform: its TrackingServer document's, for `default` the environment's, else the local stack."""
    from mlflow_platform.model.tracking_server import TrackingServer

    described = next(
        (
            d
            for d in _documents(place["paths"])
            if isinstance(d, TrackingServer) and d.metadata.name == server
        ),
        None,
    )
    if described is not None and described.spec.database is not None:
        found = _described(described, _secrets(place["secrets"]))
    elif server == "default":
        found = _surrounding()
    else:
        raise BadInput(
            f"there is no TrackingServer document {server!r} with spec.database",
            remedy="add it, so that the databases and the artifact stores are known",
        )
    try:
        yield found
    finally:
        found.platform.close()
        for store in found.stores:
            store.close()


def _described(document: TrackingServer, source: SecretSource) -> Target:
    spec = document.spec
    if spec.artifacts is None or spec.database is None:
        raise BadInput(
            f"TrackingServer {document.metadata.name} has no spec.artifacts",
            remedy="write where its artifacts are: spec.artifacts.destination",
        )
    user = _value(source, spec.credentials.usernameSecretRef, document) if spec.credentials else None
    password = _value(source, spec.credentials.passwordSecretRef, document) if spec.credentials else None
    return _target(
        _value(source, spec.database.uriSecretRef, document) or "",
        _value(source, spec.database.authUriSecretRef, document),
        spec.artifacts.destination,
        spec.artifacts.roots,
        _documented_login(spec.artifacts, source, document),
        _environment_keys(os.environ),
        (user, password) if user and password else None,
    )


def _surrounding() -> Target:
    from mlflow_platform.adapters.postgres import Database
    from mlflow_platform.adapters.s3 import S3Login

    environment: Mapping[str, str] = os.environ
    database = Database.of_environment(environment)
    if database is not None:
        root = environment.get("MLFLOW_DEFAULT_ARTIFACT_ROOT", "")
        user = environment.get("MLFLOW_AUTH_ADMIN_USERNAME")
        password = environment.get("MLFLOW_AUTH_ADMIN_PASSWORD")
        return _target(
            database.uri,
            environment.get("MLPLATFORM_AUTH_DATABASE_URI"),
            environment.get("MLFLOW_ARTIFACTS_DESTINATION"),
            [root] if root and not root.startswith("mlflow-artifacts:") else [],
            S3Login(environment.get("MLFLOW_S3_ENDPOINT_URL"), environment.get("AWS_DEFAULT_REGION")),
            _environment_keys(environment),
            (user, password) if user and password else None,
        )
    from mlflow_platform.backup.keys import ServerKeys
    from mlflow_platform.local import credentials
    from mlflow_platform.local.folder import find
    from mlflow_platform.local.stack import Stack

    stack = Stack(find())
    if not stack.status().exists:
        raise BadInput(
            "no database: none is given and no local stack is running",
            remedy="name a TrackingServer document with spec.database, set MLFLOW_BACKEND_STORE_URI, "
            "or start one with `mlplatform up`",
        )
    local, kept = stack.endpoints(), credentials.load(stack.folder)
    return _target(
        local.database_uri,
        local.auth_database_uri,
        f"s3://{local.s3_bucket}",
        [],
        S3Login(local.s3_endpoint, "us-east-1", local.s3_access_key, local.s3_secret_key),
        ServerKeys(kept.kek_passphrase, kept.webhook_key),
        (local.username, local.password),
    )


def _environment_keys(environment: Mapping[str, str]) -> ServerKeys:
    from mlflow_platform.backup.keys import VARIABLES, ServerKeys

    return ServerKeys(environment.get(VARIABLES["gateway"], ""), environment.get(VARIABLES["webhook"], ""))


def _target(
    tracking: str,
    auth: str | None,
    destination: str | None,
    direct: Sequence[str],
    login: S3Login,
    keys: ServerKeys,
    admin: tuple[str, str] | None,
) -> Target:
    from mlflow_platform.adapters.files import FileStore
    from mlflow_platform.adapters.postgres import Database
    from mlflow_platform.adapters.s3 import S3Store
    from mlflow_platform.adapters.trees import tree
    from mlflow_platform.backup.create import Platform
    from mlflow_platform.backup.restore import Target

    uris = [*([destination] if destination else []), *direct]
    platform = Platform(
        Database(tracking),
        Database(auth) if auth and auth != tracking else None,
        tree(destination, login) if destination else None,
        [tree(uri, login) for uri in direct],
        keys,
    )
    stores = [S3Store(uri, login) if uri.startswith("s3://") else FileStore(uri) for uri in uris]
    return Target(platform, admin, stores=stores)
