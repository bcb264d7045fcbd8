"""ExperimentSet: experiments from a matrix, so that one template is the naming convention."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from mlflow_platform.model.base import Document, Model, Name, ResourceName
from mlflow_platform.model.experiment import ArtifactLocation
from mlflow_platform.model.fields import Description, Grants, Tags, Workspace

MAX_MEMBERS = 5000
Axis = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
AxisValue = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class ExperimentTemplate(Model):
    """A member of the set; every string may hold placeholders such as `{{ brand }}`."""

    name: Name = Field(description="Name of a member, for example `{{ brand }}/{{ tier }}`.")
    workspace: Workspace = "default"
    description: Description | None = Field(None, description="As in Experiment.")
    tags: Tags = Field(default_factory=dict, description="As in Experiment.")
    artifactLocation: ArtifactLocation | None = Field(None, description="As in Experiment.")
    grants: Grants = Field(default_factory=list)


class ExperimentSetSpec(Model):
    """Axes, the template, and the combinations to leave out."""

    server: ResourceName = Field("default", description="The TrackingServer that holds the members.")
    deletionPolicy: Literal["Retain", "Delete"] = Field("Retain", description="As in Experiment.")
    managementPolicy: Literal["Full", "ObserveOnly"] = Field("Full", description="As in Experiment.")
    matrix: Annotated[
        dict[Axis, Annotated[list[AxisValue], Field(min_length=1, max_length=MAX_MEMBERS)]],
        Field(min_length=1, max_length=8, description="Values of each axis; members are their product."),
    ]
    template: ExperimentTemplate = Field(description="What each member is.")
    exclude: Annotated[list[dict[Axis, AxisValue]], Field(max_length=1000)] = Field(
        default_factory=list, description="Combinations without a member; an axis left out matches all."
    )


class ExperimentSet(Document):
    """Experiments by a naming convention: the product of the axes, at most 5,000."""

    plural: ClassVar[str] = "experimentsets"
    short_names: ClassVar[tuple[str, ...]] = ("expset",)
    kind: Literal["ExperimentSet"] = "ExperimentSet"
    spec: ExperimentSetSpec
