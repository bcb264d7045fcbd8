"""What all documents have in common: Kubernetes' shape and the fields every kind shares.

Every string, list and map has a bound, so that the CRDs' validation rules stay cheap enough for
kube-apiserver to accept.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

API_VERSION: Final = "mlplatform.io/v1alpha1"

#: MLflow's names column is varchar(256) (experiments.name, registered_models.name), although
#: `MAX_EXPERIMENT_NAME_LENGTH` in mlflow/utils/validation.py says 500.
MAX_NAME = 256

#: RFC 1123 subdomain, what kube-apiserver accepts as metadata.name.
ResourceName = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    ),
]
#: RFC 1123 label.
Namespace = Annotated[
    str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
]
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]


class Model(BaseModel):
    """Base of everything in a document: unknown fields are mistakes, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, validate_default=False)


class Metadata(Model):
    """Kubernetes object metadata, as far as documents use it."""

    name: ResourceName = Field(description="Name of the document; unique within its kind and namespace.")
    namespace: Namespace = Field("default", description="Namespace of the document; the tenant in a cluster.")
    labels: dict[str, str] = Field(default_factory=dict, max_length=64, description="Kubernetes labels.")
    annotations: dict[str, str] = Field(
        default_factory=dict, max_length=64, description="Kubernetes annotations."
    )


class SecretReference(Model):
    """Where a secret value is: never the value itself.

    In a cluster: a Secret of the document's namespace. On the command line: `--secrets DIR` maps it to
    the file `DIR/<name>/<key>`, `--secrets env:PREFIX` to the variable `PREFIX_<NAME>_<KEY>`.
    """

    name: ResourceName = Field(description="Name of the Secret.")
    key: Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")] = (
        Field(description="Key within the Secret.")
    )


class ObjectSpec(Model):
    """Fields that every declared object of a tracking server has."""

    name: Name | None = Field(None, description="MLflow's name of the object. Default: metadata.name.")
    server: ResourceName = Field("default", description="The TrackingServer that holds the object.")
    deletionPolicy: Literal["Retain", "Delete"] = Field(
        "Retain",
        description="What happens to the object when its document is removed: it stays, or it is deleted.",
    )
    managementPolicy: Literal["Full", "ObserveOnly"] = Field(
        "Full", description="ObserveOnly reports differences and never writes."
    )


class Document(Model):
    """One document: `apiVersion`, `kind`, `metadata`, `spec`; `status` is accepted and ignored."""

    scope: ClassVar[Literal["Namespaced", "Cluster"]] = "Namespaced"
    plural: ClassVar[str]
    short_names: ClassVar[tuple[str, ...]] = ()

    apiVersion: Literal["mlplatform.io/v1alpha1"] = Field(API_VERSION, description="Version of this schema.")
    kind: str
    metadata: Metadata
    spec: Any
    status: dict[str, Any] | None = Field(None, description="Written by the operator; ignored as input.")

    @property
    def origin(self) -> str:
        """`Kind/namespace/name`: what an owner's mark names."""
        return f"{self.kind}/{self.metadata.namespace}/{self.metadata.name}"

    @property
    def allow_replace(self) -> bool:
        return self.metadata.annotations.get("mlplatform.io/allow-replace") == "true"
