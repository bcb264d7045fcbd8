"""What all documents have in common: Kubernetes' shape and the fields every kind shares.

Every string, list and map has a bound, so that the CRDs' validation rules stay cheap enough for
kube-apiserver to accept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

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
#: Kubernetes' qualified name: a name of 63 characters, a prefix of 253 and a slash before it. The bound of
#: values is that of a label, or of all annotations together (TotalAnnotationSizeLimitB).
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=317)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]


#: What a pattern of the model allows, in words, for messages. Tests keep it complete.
PATTERNS: dict[str, str] = {
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$": (
        "use lower-case letters, digits, dashes and dots, a letter or digit at both ends"
    ),
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": (
        "use lower-case letters, digits and dashes, a letter or digit at both ends"
    ),
    r"^[-._a-zA-Z0-9]+$": "use letters, digits, dots, dashes and underscores",
    r"^[/\p{L}\p{N}_.\- :]+$": "use letters, digits, spaces and / . - _ :",
    r"^[\p{L}\p{N}_\-]+$": "use letters, digits, dashes and underscores",
    r"^[A-Za-z0-9][-_.A-Za-z0-9]*$": (
        "use letters, digits, dots, dashes and underscores, a letter or digit first"
    ),
    r"^[0-9a-zA-Z][-_0-9a-zA-Z]*$": "write the run's id, as MLflow shows it",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "use letters, digits and underscores, no digit first",
    r"^https?://(\[[0-9a-fA-F:.]+\]|[^@/?#:\[\]]+)(:[0-9]+)?([/?#]|$)": (
        "write an address that begins with https:// or http:// and a host"
    ),
    r"^[0-9]{1,6}[smhdw]$": "write a number and its unit: 90d, 24h, 30m, 10s or 2w",
    r"^([01][0-9]|2[0-3]):[0-5][0-9]$": "write a time of day (UTC) in quotes, such as '22:00'",
    r"^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|[-0-9*/,A-Za-z]+( +[-0-9*/,A-Za-z?]+){4})$": (
        "write five fields as in cron, such as 0 2 * * *, or @daily"
    ),
    r"^(s3://[^/]+(/.*)?|file:///.+|/.+)$": "write s3://bucket, s3://bucket/prefix, or the path of a folder",
    r"\S": "write something that is not blank",
    r"/$": "end it with a slash",
}

#: Fields that kube-apiserver adds to metadata; what `kubectl get -o yaml` prints can be given back.
SERVER_FIELDS: Final = frozenset(
    (
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    )
)

Step = str | int

#: As the context of a validation: look at each field alone and not at what lies between them.
FIELDS_ALONE: Final[dict[str, Any]] = {"fields": "alone"}


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake that is not about one field's type: where in the document, what, and the remedy."""

    path: tuple[Step, ...]
    what: str
    remedy: str
    among: tuple[str, ...] = field(default=(), repr=False)
    """For a name that is not known: the names there are. While one of these is itself mistaken, so may
    this mistake be. Not shown: pydantic puts all that a mistake is into words, thousands of times."""

    def under(self, *head: Step) -> Mistake:
        """The same mistake, seen from further up."""
        return replace(self, path=(*head, *self.path))


def refuse(what: str, remedy: str) -> PydanticCustomError:
    """What a validator of one field raises; the message's place is that field."""
    return PydanticCustomError("mistake", "{what}: {remedy}", {"what": what, "remedy": remedy})


def repeated(field: str, names: Sequence[str], noun: str) -> Iterator[Mistake]:
    """A mistake for every entry of the list `field` whose name an entry before it has."""
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            yield Mistake((field, i), f"the {noun} {name!r} is listed twice", "remove one of the two")
        seen.add(name)


def dotted(path: tuple[Step, ...]) -> str:
    """A path for people: `spec.tags.team`, `spec.versions[0]`, `spec.tags["a.b"]`."""
    out = ""
    for step in path:
        if isinstance(step, int):
            out += f"[{step}]"
        elif step.replace("_", "a").replace("-", "a").isalnum():
            out += f".{step}" if out else step
        else:
            out += f'["{step if len(step) <= 60 else step[:57] + "..."}"]'
    return out


class Model(BaseModel):
    """Base of everything in a document: unknown fields are mistakes, values never change, and a value
    of another type is never converted, because kube-apiserver would not convert it either."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=False)


class Metadata(Model):
    """Kubernetes object metadata, as far as documents use it."""

    name: ResourceName = Field(description="Name of the document; unique within its kind and namespace.")
    namespace: Namespace = Field("default", description="Namespace of the document; the tenant in a cluster.")
    labels: dict[MetadataKey, Annotated[str, StringConstraints(max_length=63)]] = Field(
        default_factory=dict, max_length=64, description="Kubernetes labels."
    )
    annotations: dict[MetadataKey, Annotated[str, StringConstraints(max_length=262_144)]] = Field(
        default_factory=dict,
        max_length=64,
        description='Kubernetes annotations. `mlplatform.io/allow-replace: "true"` lets an object be made '
        "anew where a field differs that cannot be changed.",
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


class Spec(Model):
    """The `spec` of a document."""

    def mistakes(self, default_name: str) -> Iterator[Mistake]:  # noqa: ARG002 - for those who override it
        """What is wrong between fields that are each right; paths start below `spec`.

        `default_name` is the document's metadata.name, the object's name where none is given.
        """
        return iter(())


class ObjectSpec(Spec):
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

    def mistakes(self) -> Iterator[Mistake]:
        """What is wrong between fields that are each right."""
        if isinstance(self.spec, Spec):
            for mistake in self.spec.mistakes(self.metadata.name):
                by_default = mistake.path == ("name",) and getattr(self.spec, "name", None) is None
                yield mistake.under("metadata" if by_default else "spec")

    @model_validator(mode="after")
    def _without_mistakes(self, info: ValidationInfo) -> Document:
        found = () if info.context is FIELDS_ALONE else tuple(self.mistakes())
        if found:
            text = "; ".join(f"{dotted(m.path)}: {m.what} ({m.remedy})" for m in found)
            raise PydanticCustomError("mistakes", "{text}", {"text": text, "mistakes": found})
        return self

    @property
    def origin(self) -> str:
        """`Kind/namespace/name`: what an owner's mark names."""
        return f"{self.kind}/{self.metadata.namespace}/{self.metadata.name}"

    @property
    def allow_replace(self) -> bool:
        return self.metadata.annotations.get("mlplatform.io/allow-replace") == "true"
