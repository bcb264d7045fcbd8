"""A platform as backup, retention and archives see it: databases, artifact stores, logins and keys."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_platform.cli import output
from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    from mlflow_platform.adapters.object_store import ObjectStore
    from mlflow_platform.adapters.s3 import S3Login
    from mlflow_platform.backup.keys import ServerKeys
    from mlflow_platform.config.secrets import SecretSource
    from mlflow_platform.model.base import SecretReference
    from mlflow_platform.model.tracking_server import TrackingServer

server_option = click.option(
    "--server", default="default", show_default=True, metavar="NAME", help="The TrackingServer."
)
secrets_option = click.option("--secrets", metavar="DIR|env:PREFIX", help="Where secret values are.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@dataclass(frozen=True)
class Stores:
    """What is known of one platform. Users come with their passwords."""

    database: str
    """The address of the tracking database."""
    auth: str | None
    """That of the auth database, where it is given."""
    destination: str | None
    """The place behind the server's artifact proxy."""
    roots: Sequence[str]
    """Places that clients write to directly."""
    login: S3Login
    keys: ServerKeys
    tracking_uri: str | None = None
    client: tuple[str, str] | None = None
    admin: tuple[str, str] | None = None
    ca: str | None = None
    """The authority behind the tracking server's certificate, in PEM. Default: the system's."""

    def __repr__(self) -> str:
        return f"Stores({self.destination!r}, {self.roots!r})"

    @property
    def all(self) -> list[str]:
        """Every place of artifacts."""
        return [*([self.destination] if self.destination else []), *self.roots]


def open_store(uri: str, login: S3Login, *, all_versions: bool = False) -> ObjectStore:
    """One place, in S3 or a folder."""
    from mlflow_platform.adapters.files import FileStore
    from mlflow_platform.adapters.s3 import S3Store

    return S3Store(uri, login, all_versions=all_versions) if uri.startswith("s3://") else FileStore(uri)


def read(paths: Sequence[Path]) -> list[Any]:
    """The documents in these files and folders."""
    from mlflow_platform.config import load

    return [one.document for one in load(paths).documents] if paths else []


def find(server: str, documents: Sequence[Any], secrets: str | None) -> Stores:
    """Those of a TrackingServer document; for `default` else the environment's, or the local stack's."""
    from mlflow_platform.model.tracking_server import TrackingServer

    for document in documents:
        if isinstance(document, TrackingServer) and document.metadata.name == server:
            if document.spec.database is not None:
                return _described(document, secret_source(secrets))
            break
    if server == "default":
        return _of_environment(os.environ) or _of_local_stack()
    raise BadInput(
        f"there is no TrackingServer document {server!r} with spec.database",
        remedy="add it, so that the databases and the artifact stores are known",
    )


def secret_source(setting: str | None) -> SecretSource:
    """Where values of secrets are, by the option --secrets."""
    from mlflow_platform.config.secrets import SecretSource

    return SecretSource(setting, os.environ, output.note)


def secret(source: SecretSource, reference: SecretReference | None, document: Any) -> str | None:
    """The value that a document refers to, where it does."""
    if reference is None:
        return None
    return source.resolve(reference.name, reference.key, document.metadata.namespace)


def described_login(where: Any, source: SecretSource, document: Any) -> S3Login:
    """That of a store as documents describe one."""
    from mlflow_platform.adapters.s3 import S3Login

    return S3Login(
        where.endpoint,
        where.region,
        secret(source, where.accessKeySecretRef, document),
        secret(source, where.secretKeySecretRef, document),
    )


def _described(document: TrackingServer, source: SecretSource) -> Stores:
    spec = document.spec
    if spec.artifacts is None or spec.database is None:
        raise BadInput(
            f"TrackingServer {document.metadata.name} has no spec.artifacts",
            remedy="write where its artifacts are: spec.artifacts.destination",
        )
    user = secret(source, spec.credentials.usernameSecretRef, document) if spec.credentials else None
    password = secret(source, spec.credentials.passwordSecretRef, document) if spec.credentials else None
    return Stores(
        secret(source, spec.database.uriSecretRef, document) or "",
        secret(source, spec.database.authUriSecretRef, document),
        spec.artifacts.destination,
        spec.artifacts.roots,
        described_login(spec.artifacts, source, document),
        _keys(os.environ),
        spec.trackingUri,
        client=_pair(user, password),
        admin=_pair(user, password),
        ca=secret(source, spec.caSecretRef, document),
    )


def _of_environment(environment: Mapping[str, str]) -> Stores | None:
    """By the variables that a server is started with."""
    from mlflow_platform.adapters.postgres import Database
    from mlflow_platform.adapters.s3 import S3Login

    database = Database.of_environment(environment)
    if database is None:
        return None
    root = environment.get("MLFLOW_DEFAULT_ARTIFACT_ROOT", "")
    get = environment.get
    return Stores(
        database.uri,
        get("MLPLATFORM_AUTH_DATABASE_URI"),
        get("MLFLOW_ARTIFACTS_DESTINATION"),
        [root] if root and not root.startswith("mlflow-artifacts:") else [],
        S3Login(get("MLFLOW_S3_ENDPOINT_URL"), get("AWS_DEFAULT_REGION")),
        _keys(environment),
        get("MLFLOW_TRACKING_URI"),
        client=_pair(get("MLFLOW_TRACKING_USERNAME"), get("MLFLOW_TRACKING_PASSWORD")),
        admin=_pair(get("MLFLOW_AUTH_ADMIN_USERNAME"), get("MLFLOW_AUTH_ADMIN_PASSWORD")),
    )


def _of_local_stack() -> Stores:
    from mlflow_platform.adapters.s3 import S3Login
    from mlflow_platform.backup.keys import ServerKeys
    from mlflow_platform.local import credentials, folder
    from mlflow_platform.local.stack import Stack

    stack = Stack(folder.find())
    if not stack.status().exists:
        raise BadInput(
            "no database: none is given and no local stack is running",
            remedy="name a TrackingServer document with spec.database, set MLFLOW_BACKEND_STORE_URI, "
            "or start one with `mlplatform up`",
        )
    local, kept = stack.endpoints(), credentials.load(stack.folder)
    return Stores(
        local.database_uri,
        local.auth_database_uri,
        f"s3://{local.s3_bucket}",
        [],
        S3Login(local.s3_endpoint, "us-east-1", local.s3_access_key, local.s3_secret_key),
        ServerKeys(kept.kek_passphrase, kept.webhook_key),
        local.tracking_uri,
        client=(local.username, local.password),
        admin=(local.username, local.password),
    )


def _keys(environment: Mapping[str, str]) -> ServerKeys:
    from mlflow_platform.backup.keys import VARIABLES, ServerKeys

    return ServerKeys(environment.get(VARIABLES["gateway"], ""), environment.get(VARIABLES["webhook"], ""))


def _pair(user: str | None, password: str | None) -> tuple[str, str] | None:
    return (user, password) if user and password else None
