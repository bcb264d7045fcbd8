"""Experiment: a named collection of runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, StringConstraints

from mlflow_platform.model.base import Document, Mistake, Name, ObjectSpec, refuse, repeated
from mlflow_platform.model.fields import Description, Grants, Tags, Workspace

#: Names that are not a user's to declare: `mlplatform-ledger` is where the engine keeps its own records.
RESERVED_NAMES = frozenset({"mlplatform-ledger"})


def _location(value: str) -> str:
    # mlflow/utils/validation.py: _validate_experiment_artifact_location
    if value.startswith("runs:"):
        raise refuse("artifacts cannot be kept below a run", "use a location such as s3://bucket/path")
    return value


def _name(value: str) -> str:
    if value in RESERVED_NAMES:
        raise refuse(f"{value!r} is reserved: the platform keeps its records there", "use another name")
    return value


#: experiments.artifact_location takes 256 characters, but runs.artifact_uri only 200, and a run appends
#: "/<32 hex>/artifacts": 157 characters is the longest location under which a run can be created.
ArtifactLocation = Annotated[str, StringConstraints(min_length=1, max_length=157), AfterValidator(_location)]
ExperimentName = Annotated[Name, AfterValidator(_name)]


class ExperimentSpec(ObjectSpec):
    """What an experiment should be."""

    name: ExperimentName | None = Field(None, description="Name of the experiment. Default: metadata.name.")
    workspace: Workspace = "default"
    description: Description | None = Field(
        None, description="Shown on the experiment's page (tag mlflow.note.content)."
    )
    tags: Tags = Field(default_factory=dict, description="Tags; those not declared here are left alone.")
    artifactLocation: ArtifactLocation | None = Field(
        None,
        description="Root of the artifacts of its runs. Immutable; default: chosen by the server. "
        "Not allowed where workspaces are on.",
    )
    grants: Grants = Field(default_factory=list, description="Direct permissions of users.")

    def mistakes(self, default_name: str) -> Iterator[Mistake]:
        if self.name is None and default_name in RESERVED_NAMES:
            what = f"{default_name!r} is reserved: the platform keeps its records there"
            yield Mistake(("name",), what, "use another name")
        # mlflow/store/tracking: runs that name no experiment go to experiment 0, which is called so
        if (self.name or default_name) == "Default" and self.deletionPolicy == "Delete":
            what = "MLflow puts every run that names no experiment into Default, so it must not be deleted"
            yield Mistake(("deletionPolicy",), what, "write deletionPolicy: Retain, or leave it out")
        yield from repeated("grants", [grant.user for grant in self.grants], "user")


class Experiment(Document):
    """An experiment of a tracking server."""

    plural: ClassVar[str] = "experiments"
    short_names: ClassVar[tuple[str, ...]] = ("exp",)
    kind: Literal["Experiment"] = "Experiment"
    spec: ExperimentSpec = Field(default_factory=ExperimentSpec)
