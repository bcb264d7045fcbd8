"""TrackingServer: where objects live and how to reach it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from mlflow_platform.model.base import (
    Document,
    MetadataKey,
    Mistake,
    Model,
    Name,
    ResourceName,
    SecretReference,
    Spec,
)
from mlflow_platform.model.fields import Address, WorkspaceName, without_login

#: A bucket, a prefix in one, or a folder. 200: what runs.artifact_uri takes.
StoreUri = Annotated[
    str, StringConstraints(min_length=2, max_length=200, pattern=r"^(s3://[^/]+(/.*)?|file:///.+|/.+)$")
]

S3Endpoint = Annotated[
    Address,
    StringConstraints(max_length=1000),
    without_login("keys go into Secrets that accessKeySecretRef and secretKeySecretRef refer to"),
]
Region = Annotated[str, StringConstraints(min_length=1, max_length=63)]


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


class DatabaseAccess(Model):
    """MLflow's tracking database, for retention and backup."""

    uriSecretRef: SecretReference = Field(
        description="Where its address with the login of the owner of its tables is: "
        "`postgresql://USER:PASSWORD@HOST/DATABASE`."
    )
    authUriSecretRef: SecretReference | None = Field(
        None, description="The same of the database of MLflow's users. Default: they are in the same one."
    )


class ArtifactAccess(Model):
    """The stores of MLflow's artifacts, for retention and backup."""

    destination: StoreUri | None = Field(
        None,
        description="Where the server's proxy keeps artifacts (its --artifacts-destination): "
        "`s3://BUCKET/PREFIX`, or a folder that is mounted where the server has it.",
    )
    roots: Annotated[list[StoreUri], Field(max_length=100)] = Field(
        default_factory=list, description="Where clients write artifacts themselves, past the server."
    )
    endpoint: S3Endpoint | None = Field(None, description="Address of the S3 API. Default: AWS.")
    region: Region | None = Field(None, description="Region of the buckets.")
    accessKeySecretRef: SecretReference | None = Field(
        None, description="Where the access key is. Default: the identity of the workload."
    )
    secretKeySecretRef: SecretReference | None = Field(None, description="Where the secret key is.")


LabelValue = Annotated[str, StringConstraints(max_length=63)]


class LabelRequirement(Model):
    """One condition on a namespace's labels, as Kubernetes writes it."""

    key: MetadataKey = Field(description="Name of the label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How to compare.")
    values: Annotated[list[LabelValue], Field(max_length=100)] = Field(
        default_factory=list, description="Values for In and NotIn; empty for the others."
    )

    def mistakes(self) -> Iterator[Mistake]:
        if (self.operator in ("In", "NotIn")) != bool(self.values):
            what = f"{self.operator} {'takes no' if self.values else 'needs'} values"
            yield Mistake(("values",), what, "give values for In and NotIn, none for the others")


class NamespaceSelector(Model):
    """Namespaces by their labels; all conditions must hold. Without any, every namespace."""

    matchLabels: Annotated[dict[MetadataKey, LabelValue], Field(max_length=64)] = Field(
        default_factory=dict, description="Labels that a namespace must have."
    )
    matchExpressions: Annotated[list[LabelRequirement], Field(max_length=64)] = Field(
        default_factory=list, description="Conditions on its labels."
    )


class Allowance(Model):
    """What the selected namespaces may declare on the server; nothing that is not named here."""

    namespaceSelector: NamespaceSelector = Field(description="Which namespaces. `{}` is all of them.")
    kinds: Annotated[
        list[Literal["Experiment", "ExperimentSet", "RegisteredModel", "Prompt", "MLflowRole", "Webhook"]],
        Field(min_length=1, max_length=6),
    ] = Field(
        description="Kinds of documents. A Webhook hears of every model and prompt of its workspace, also of "
        "other namespaces'. Users and workspaces are declared in the operator's namespace only."
    )
    workspaces: Annotated[list[WorkspaceName], Field(max_length=100)] = Field(
        default_factory=lambda: ["default"],
        description="MLflow workspaces. Default: only `default`, which is all there is where they are off.",
    )
    namePrefixes: Annotated[
        list[Annotated[str, StringConstraints(max_length=256)]], Field(max_length=100)
    ] = Field(
        default_factory=list,
        description='How names in MLflow must begin, for example `team-a/`; `""` allows every name. The '
        "same holds for what a role of theirs permits.",
    )
    roles: Annotated[list[Name], Field(max_length=100)] = Field(
        default_factory=list, description="Names of the roles that they may declare."
    )
    artifactLocations: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"/$")]],
        Field(max_length=100),
    ] = Field(
        default_factory=list,
        description="Where artifactLocation and the source of a version may be, for example "
        "`s3://team-a/`; each ends in a slash. Default: nowhere but where the server chooses.",
    )


class TrackingServerSpec(Spec):
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
    database: DatabaseAccess | None = Field(
        None, description="The tracking database, for retention and backup."
    )
    artifacts: ArtifactAccess | None = Field(
        None, description="The artifact stores, for retention and backup."
    )
    requestsPerSecond: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None, description="Most requests a second; unlimited if left out."
    )
    concurrency: Annotated[int, Field(ge=1, le=64)] = Field(8, description="Requests under way at once.")
    allowed: Annotated[list[Allowance], Field(max_length=100)] = Field(
        default_factory=list,
        description="In a cluster: what namespaces other than the operator's may declare here. Default: "
        "nothing.",
    )

    def mistakes(self, default_name: str) -> Iterator[Mistake]:  # noqa: ARG002 - a server has no other name
        for i, allowance in enumerate(self.allowed):
            for j, condition in enumerate(allowance.namespaceSelector.matchExpressions):
                for mistake in condition.mistakes():
                    yield mistake.under("allowed", i, "namespaceSelector", "matchExpressions", j)


class TrackingServer(Document):
    """An MLflow server that documents refer to by name."""

    scope: ClassVar[Literal["Namespaced", "Cluster"]] = "Cluster"
    plural: ClassVar[str] = "trackingservers"
    short_names: ClassVar[tuple[str, ...]] = ("ts",)
    kind: Literal["TrackingServer"] = "TrackingServer"
    spec: TrackingServerSpec


__all__ = [
    "Allowance",
    "ArtifactAccess",
    "BrakeLimits",
    "Credentials",
    "DatabaseAccess",
    "NamespaceSelector",
    "ResourceName",
    "TrackingServer",
    "TrackingServerSpec",
]
