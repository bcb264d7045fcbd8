"""RegisteredModel: a model of the registry with the versions and aliases that are declared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal
from urllib.parse import unquote_plus

from pydantic import Field, StringConstraints

from mlflow_platform.model.base import Document, Mistake, Model, ObjectSpec, repeated
from mlflow_platform.model.fields import (
    AliasName,
    Description,
    Tags,
    VersionKey,
    Workspace,
    alias_mistakes,
    unlike_a_path,
)


class ModelVersion(Model):
    """A version this document makes. Its number is MLflow's; `key` is how the document names it."""

    key: VersionKey = Field(description="Stable name of the version within the document.")
    source: Annotated[str, StringConstraints(min_length=1, max_length=500)] = Field(
        description="Where the artifacts are: `s3://bucket/path`, `runs:/<id>/model` with its runId, "
        "`models:/<name>/<version>`. Immutable."
    )
    runId: Annotated[str, StringConstraints(pattern=r"^[0-9a-zA-Z][-_0-9a-zA-Z]*$", max_length=32)] | None = (
        Field(None, description="The run that made it. Immutable.")
    )
    description: Description | None = Field(None, description="Shown on the version's page.")
    tags: Tags = Field(default_factory=dict, description="Tags of the version.")

    def mistakes(self) -> Iterator[Mistake]:
        """What mlflow/server/handlers.py (`_validate_source_run`) refuses whatever is on the server."""
        source, scheme = unquote_plus(self.source), self.source.partition(":")[0].lower()
        if ".." in source.split("/"):
            yield Mistake(("source",), "MLflow takes no source with .. in it", "write the path out")
        elif scheme == "runs":
            run = re.match(r"runs:/+([^/]*)", source, re.IGNORECASE)
            if run is not None and run[1] != self.runId:
                given = f"not of runId {self.runId}" if self.runId else "and runId is missing"
                what = f"the source is of the run {run[1]}, {given}; MLflow wants both to name the same"
                yield Mistake(("runId",), what, f"write runId: {run[1]}")
        elif self.runId is None and scheme == "mlflow-artifacts":
            what = "MLflow takes an mlflow-artifacts: source only together with the run that it belongs to"
            yield Mistake(("source",), what, "add runId, or write the place as s3://bucket/path")
        elif self.runId is None and (scheme == "file" or ("://" not in source and ":/" not in source)):
            what = f"MLflow takes the local path {self.source!r} only together with the run that made it"
            yield Mistake(("source",), what, "add runId, or use a source such as s3://bucket/path")


class Alias(Model):
    """What an alias points at: a version's number, or the key of a version of the document."""

    version: Annotated[int, Field(ge=1, le=2147483647)] | None = Field(
        None, description="MLflow's version number."
    )
    key: VersionKey | None = Field(None, description="Key of a version declared here.")
    drift: Literal["Correct", "Ignore"] = Field(
        "Correct", description="Ignore: set once, then left to promotions by hand or by a pipeline."
    )

    def mistakes(self) -> Iterator[Mistake]:
        if (self.version is None) == (self.key is None):
            both = "both version and key" if self.key else "neither version nor key"
            remedy = "give the key of a version declared here, or the number of one that exists"
            yield Mistake((), f"the alias has {both}", remedy)


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

    def mistakes(self, default_name: str) -> Iterator[Mistake]:
        name = self.name or default_name
        # mlflow/utils/validation.py: _validate_model_name
        if "/" in name or ":" in name or not name.strip() or unlike_a_path(name):
            what = f"MLflow takes no model named {name!r}"
            yield Mistake(("name",), what, "use a name without / and :, that is not blank, . or ..")
        yield from repeated("versions", [version.key for version in self.versions], "version key")
        for i, version in enumerate(self.versions):
            for mistake in version.mistakes():
                yield mistake.under("versions", i)
        for alias, target in self.aliases.items():
            for mistake in target.mistakes():
                yield mistake.under("aliases", alias)
        aliases = {alias: target.key for alias, target in self.aliases.items()}
        yield from alias_mistakes(aliases, [version.key for version in self.versions])


class RegisteredModel(Document):
    """A registered model of a tracking server."""

    plural: ClassVar[str] = "registeredmodels"
    short_names: ClassVar[tuple[str, ...]] = ("rm",)
    kind: Literal["RegisteredModel"] = "RegisteredModel"
    spec: RegisteredModelSpec = Field(default_factory=RegisteredModelSpec)
