"""RegisteredModel: a model of the registry with the versions and aliases that are declared."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from mlflow_platform.model.base import Document, Model, ObjectSpec
from mlflow_platform.model.fields import AliasName, Description, Tags, VersionKey, Workspace


class ModelVersion(Model):
    """A version this document makes. Its number is MLflow's; `key` is how the document names it."""

    key: VersionKey = Field(description="Stable name of the version within the document.")
    source: Annotated[str, StringConstraints(min_length=1, max_length=500)] = Field(
        description="Artifact URI (`s3://`, `runs:/<id>/model`, `models:/<id>`). Immutable."
    )
    runId: (
        Annotated[str, StringConstraints(pattern=r"^[0-9a-zA-Z][-_0-9a-zA-Z]*$", max_length=256)] | None
    ) = Field(None, description="The run that made it. Immutable.")
    description: Description | None = Field(None, description="Shown on the version's page.")
    tags: Tags = Field(default_factory=dict, description="Tags of the version.")


class Alias(Model):
    """What an alias points at: a version's number, or the key of a version of the document."""

    version: Annotated[int, Field(ge=1, le=2147483647)] | None = Field(
        None, description="MLflow's version number."
    )
    key: VersionKey | None = Field(None, description="Key of a version declared here.")
    drift: Literal["Correct", "Ignore"] = Field(
        "Correct", description="Ignore: set once, then left to promotions by hand or by a pipeline."
    )


class RegisteredModelSpec(ObjectSpec):
    """What a registered model should be. Versions that are not declared are left alone."""

    workspace: Workspace = "default"
    description: Description | None = Field(None, description="Shown on the model's page.")
    tags: Tags = Field(default_factory=dict, description="Tags; those not declared here are left alone.")
    versions: Annotated[list[ModelVersion], Field(max_length=200)] = Field(
        default_factory=list, description="Versions to make."
    )
    aliases: Annotated[dict[AliasName, Alias], Field(max_length=64)] = Field(
        default_factory=dict, description="Aliases; those not declared here are left alone."
    )


class RegisteredModel(Document):
    """A registered model of a tracking server."""

    plural: ClassVar[str] = "registeredmodels"
    short_names: ClassVar[tuple[str, ...]] = ("rm",)
    kind: Literal["RegisteredModel"] = "RegisteredModel"
    spec: RegisteredModelSpec = Field(default_factory=RegisteredModelSpec)
