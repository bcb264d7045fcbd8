"""TrackingServer: where objects live and how to reach it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from mlflow_platform.model.base import Document, Model, ResourceName, SecretReference
from mlflow_platform.model.fields import Address, without_login


class Credentials(Model):
    """User and password of an MLflow administrator."""

    usernameSecretRef: SecretReference = Field(description="Where the user name is.")
    passwordSecretRef: SecretReference = Field(description="Where the password is.")


class BrakeLimits(Model):
    """What one plan may give up of what is owned before it must be released by its hash."""

    maxLossPercent: Annotated[int, Field(ge=0, le=100)] = Field(
        30, description="Largest share of owned objects that one plan deletes, replaces or forgets."
    )
    minimumOwned: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        10, description="The share is not looked at below this number of owned objects."
    )


class TrackingServerSpec(Model):
    """Where the server is and how much may be asked of it."""

    trackingUri: Annotated[
        Address,
        StringConstraints(max_length=1000),
        without_login("it goes into a Secret that credentials refers to"),
    ] = Field(description="Address of the MLflow server, without a login.")
    credentials: Credentials | None = Field(None, description="Login; none where the server has no auth.")
    caSecretRef: SecretReference | None = Field(
        None, description="Certificate authority (PEM) that signed the server's certificate."
    )
    ledgerKeySecretRef: SecretReference | None = Field(
        None,
        description="Key of the HMACs that tell whether a password changed. Default: derived from the login.",
    )
    brakes: BrakeLimits = Field(default_factory=BrakeLimits)
    requestsPerSecond: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None, description="Most requests a second; unlimited if left out."
    )
    concurrency: Annotated[int, Field(ge=1, le=64)] = Field(8, description="Requests under way at once.")


class TrackingServer(Document):
    """An MLflow server that documents refer to by name."""

    scope: ClassVar[Literal["Namespaced", "Cluster"]] = "Cluster"
    plural: ClassVar[str] = "trackingservers"
    short_names: ClassVar[tuple[str, ...]] = ("ts",)
    kind: Literal["TrackingServer"] = "TrackingServer"
    spec: TrackingServerSpec


__all__ = ["BrakeLimits", "Credentials", "ResourceName", "TrackingServer", "TrackingServerSpec"]
