"""Workspace: MLflow's own partition of experiments, models and prompts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from mlflow_platform.model.base import Document, Mistake, ObjectSpec
from mlflow_platform.model.experiment import ArtifactLocation
from mlflow_platform.model.fields import Description, WorkspaceName

#: mlflow/store/workspace/abstract_store.py: `WorkspaceNameValidator`.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SHORTEST_NAME, _LONGEST_NAME = 2, 63
_RESERVED = frozenset({"workspaces", "api", "ajax-api", "static-files"})


class WorkspaceSpec(ObjectSpec):
    """What a workspace should be. Needs a server with workspaces switched on."""

    name: WorkspaceName | None = Field(None, description="Name of the workspace. Default: metadata.name.")
    description: Description | None = Field(None, description="What the workspace is for.")
    defaultArtifactRoot: ArtifactLocation | None = Field(
        None, description="Root of the artifacts of new experiments of the workspace."
    )

    def mistakes(self, default_name: str) -> Iterator[Mistake]:
        name = self.name or default_name
        if name in _RESERVED:
            yield Mistake(("name",), f"MLflow reserves the workspace name {name!r}", "choose another name")
        elif not (_SHORTEST_NAME <= len(name) <= _LONGEST_NAME and _NAME.fullmatch(name)):
            what = f"MLflow takes no workspace named {name!r}"
            remedy = f"use {_SHORTEST_NAME} to {_LONGEST_NAME} lower-case letters, digits and inner dashes"
            yield Mistake(("name",), what, remedy)


class Workspace(Document):
    """A workspace of a tracking server."""

    plural: ClassVar[str] = "workspaces"
    short_names: ClassVar[tuple[str, ...]] = ("ws",)
    kind: Literal["Workspace"] = "Workspace"
    spec: WorkspaceSpec = Field(default_factory=WorkspaceSpec)
