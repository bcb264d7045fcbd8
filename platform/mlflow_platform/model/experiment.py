"""Experiment: a named collection of runs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from mlflow_platform.model.base import Document, ObjectSpec
from mlflow_platform.model.fields import Description, Grants, Tags, Workspace

#: experiments.artifact_location takes 256 characters, but runs.artifact_uri only 200, and a run appends
#: "/<32 hex>/artifacts": 157 characters is the longest location under which a run can be created.
ArtifactLocation = Annotated[str, StringConstraints(min_length=1, max_length=157)]


class ExperimentSpec(ObjectSpec):
    """What an experiment should be."""

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
    grants: Grants = Field(default_factory=list)


class Experiment(Document):
    """An experiment of a tracking server."""

    plural: ClassVar[str] = "experiments"
    short_names: ClassVar[tuple[str, ...]] = ("exp",)
    kind: Literal["Experiment"] = "Experiment"
    spec: ExperimentSpec = Field(default_factory=ExperimentSpec)
