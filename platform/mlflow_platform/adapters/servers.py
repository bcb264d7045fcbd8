"""From an address and a login, or a TrackingServer document, to a target of the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from urllib.parse import unquote, urlsplit

from mlflow_platform.adapters.mlflow import MlflowApi
from mlflow_platform.apply.rounds import Target
from mlflow_platform.errors import Fatal
from mlflow_platform.kinds.registry import KINDS
from mlflow_platform.model.base import SecretReference
from mlflow_platform.model.tracking_server import TrackingServer
from mlflow_platform.plan.brakes import Brakes
from mlflow_platform.plan.objects import SecretRef


class Secrets(Protocol):
    """Where secret values are found. Raises `BadInput` where there is none."""

    def resolve(self, name: str, key: str, namespace: str = "default") -> str: ...


def connect(
    tracking_uri: str,
    username: str | None,
    password: str | None,
    *,
    owner: str,
    secrets: Secrets,
    ca: str | None = None,
    ledger_key: str | None = None,
    brakes: Brakes | None = None,
    concurrency: int = 8,
    requests_per_second: int | None = None,
    gate: Callable[[], None] = lambda: None,
    retry_seconds: float = 60.0,
) -> Target:
    """Probe the server and describe it. `ca` is PEM text; for `gate` and `retry_seconds` see `MlflowApi`.

    Raises `Transient` where it cannot be reached, `Fatal` where it is no MLflow server, refuses the login,
    or shows it only a part of what there is.
    """
    api = MlflowApi(
        tracking_uri,
        username,
        password,
        ca=ca,
        concurrency=concurrency,
        requests_per_second=requests_per_second,
        gate=gate,
        retry_seconds=retry_seconds,
    )
    features = api.features()
    if not features.admin:
        # MLflow shows others a part of users, roles and experiments without a word (mlflow/server/auth/
        # __init__.py: list_users, filter_search_experiments): a plan would create what is there already.
        raise Fatal(
            f"{api.address}: the login {features.username!r} is no administrator, and MLflow shows it only a "
            "part of what there is",
            remedy="use the login of an administrator of that server",
        )

    def resolve(ref: SecretRef) -> str:
        return secrets.resolve(ref.name, ref.key, ref.namespace)

    return Target(
        api,
        owner,
        KINDS,
        resolve,
        address=api.address,
        login_secret=ledger_key or password or unquote(urlsplit(tracking_uri).password or ""),
        workspaces=features.workspaces,
        workspaces_on=features.workspaces_on,
        auth=features.auth,
        brakes=brakes or Brakes(),
        concurrency=concurrency,
        version=features.version,
    )


def connect_documented(
    server: TrackingServer,
    owner: str,
    secrets: Secrets,
    *,
    gate: Callable[[], None] = lambda: None,
    retry_seconds: float = 60.0,
) -> Target:
    """The target that a TrackingServer document describes; the rest is as for `connect`."""
    spec = server.spec

    def value(ref: SecretReference | None) -> str | None:
        return secrets.resolve(ref.name, ref.key, server.metadata.namespace) if ref else None

    return connect(
        spec.trackingUri,
        value(spec.credentials.usernameSecretRef if spec.credentials else None),
        value(spec.credentials.passwordSecretRef if spec.credentials else None),
        owner=owner,
        secrets=secrets,
        ca=value(spec.caSecretRef),
        ledger_key=value(spec.ledgerKeySecretRef),
        brakes=Brakes(spec.brakes.maxLossPercent, spec.brakes.minimumOwned),
        concurrency=spec.concurrency,
        requests_per_second=spec.requestsPerSecond,
        gate=gate,
        retry_seconds=retry_seconds,
    )
