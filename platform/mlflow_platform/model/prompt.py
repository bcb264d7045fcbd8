"""Prompt: a prompt of the registry; every version's content is immutable."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

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

#: mlflow/utils/validation.py: a prompt's text, or its messages as JSON, is a version tag, whose length
#: MAX_MODEL_REGISTRY_TAG_VALUE_LENGTH bounds.
MAX_TEXT = 100_000
Template = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]
#: mlflow/prompt/constants.py: PROMPT_NAME_RULE.
_NAME = re.compile(r"[a-zA-Z0-9_.-]+")


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

    @property
    def content(self) -> str:
        """What makes it another version than others: the text, or the messages as JSON."""
        if self.messages is None:
            return self.template or ""
        return json.dumps([message.model_dump() for message in self.messages])

    def mistakes(self) -> Iterator[Mistake]:
        if self.template is not None and self.messages is not None:
            what = "the version has a template and messages"
            yield Mistake(("messages",), what, "keep template for a text prompt, messages for a chat")
        elif self.template is None and self.messages is None:
            what = "the version has neither a template nor messages"
            yield Mistake((), what, "add template for a text prompt, messages for a chat")
        elif len(self.content) > MAX_TEXT:
            what = f"the messages have {len(self.content):,} characters as JSON; MLflow takes {MAX_TEXT:,}"
            yield Mistake(("messages",), what, "shorten them")


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

    def mistakes(self, default_name: str) -> Iterator[Mistake]:
        name = self.name or default_name
        if not _NAME.fullmatch(name) or unlike_a_path(name):
            what = f"MLflow takes no prompt named {name!r}"
            yield Mistake(("name",), what, "use letters, digits, dots, dashes and underscores, not .. first")
        yield from repeated("versions", [version.key for version in self.versions], "version key")
        first: dict[tuple[bool, str], str] = {}
        for i, version in enumerate(self.versions):
            found = [mistake.under("versions", i) for mistake in version.mistakes()]
            yield from found
            content = (version.messages is None, version.content)
            if not found and first.setdefault(content, version.key) != version.key:
                what = f"the version {version.key!r} has the same content as {first[content]!r}"
                yield Mistake(("versions", i), what, "remove one of the two, or change its text")
        aliases: dict[str, str | None] = {alias: target.key for alias, target in self.aliases.items()}
        yield from alias_mistakes(aliases, [version.key for version in self.versions])


class Prompt(Document):
    """A prompt of a tracking server."""

    plural: ClassVar[str] = "prompts"
    kind: Literal["Prompt"] = "Prompt"
    spec: PromptSpec = Field(default_factory=PromptSpec)
