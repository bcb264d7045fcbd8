"""Workspace: MLflow's own partition of experiments, models and prompts."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mlflow_platform.model.base import Document, ObjectSpec
from mlflow_platform.model.experiment import ArtifactLocation
from mlflow_platform.model.fields import Description, WorkspaceName


class WorkspaceSpec(ObjectSpec):
    """What a workspace should be. Needs a server with workspaces switched on."""

    name: WorkspaceName | None = Field(None, description="Name of the workspace. Default: metadata.name.")
    description: Description | None = Field(None, description="What the workspace is for.")
    defaultArtifactRoot: ArtifactLocation | None = Field(
        None, description="Root of the artifacts of new experiments of the workspace."
    )


class Workspace(Document):
    """A workspace of a tracking server."""

    plural: ClassVar[str] = "workspaces"
    short_names: ClassVar[tuple[str, ...]] = ("ws",)
    kind: Literal["Workspace"] = "Workspace"
    spec: WorkspaceSpec = Field(default_factory=WorkspaceSpec)
