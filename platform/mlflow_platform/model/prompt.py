"""Prompt: a prompt of the registry; every version's content is immutable."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from mlflow_platform.model.base import Document, Model, ObjectSpec
from mlflow_platform.model.fields import AliasName, Description, Tags, VersionKey, Workspace

#: mlflow/utils/validation.py: a prompt's text is a version tag of at most 100,000 characters.
Template = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]


class ChatMessage(Model):
    """One message of a chat template."""

    role: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        description="system, user, ..."
    )
    content: Template = Field(description="Text with `{{ variable }}` placeholders.")


class PromptVersion(Model):
    """A version: either `template` (text) or `messages` (chat). Immutable once made."""

    key: VersionKey = Field(description="Stable name of the version within the document.")
    template: Template | None = Field(None, description="Text with `{{ variable }}` placeholders.")
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=100)] | None = Field(
        None, description="Chat messages."
    )
    commitMessage: Description | None = Field(None, description="Why this version was made.")
    tags: Tags = Field(default_factory=dict, description="Tags of the version.")


class PromptAlias(Model):
    """What an alias points at."""

    key: VersionKey = Field(description="Key of a version declared here.")
    drift: Literal["Correct", "Ignore"] = Field(
        "Correct", description="Ignore: set once, then left to promotions by hand or by a pipeline."
    )


class PromptSpec(ObjectSpec):
    """What a prompt should be. Versions that are not declared are left alone."""

    workspace: Workspace = "default"
    description: Description | None = Field(None, description="Shown on the prompt's page.")
    tags: Tags = Field(default_factory=dict, description="Tags; those not declared here are left alone.")
    versions: Annotated[list[PromptVersion], Field(max_length=200)] = Field(
        default_factory=list,
        description="Versions to make, oldest first; none is made twice with the same content.",
    )
    aliases: Annotated[dict[AliasName, PromptAlias], Field(max_length=64)] = Field(
        default_factory=dict, description="Aliases; those not declared here are left alone."
    )


class Prompt(Document):
    """A prompt of a tracking server."""

    plural: ClassVar[str] = "prompts"
    kind: Literal["Prompt"] = "Prompt"
    spec: PromptSpec = Field(default_factory=PromptSpec)
