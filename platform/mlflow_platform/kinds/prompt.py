"""Prompts: registered models whose versions are texts. A version is its content: none is made twice.

A document's version is, in this order: the one that bears its key; the one with its content, which then
gets its key; the one called `v<number>`. So a prompt that somebody registered by hand is not doubled by a
document with the same text. Stored as MLflow's own client does it, which reads these prompts too
(mlflow/tracking/client.py: register_prompt, mlflow/prompt/registry_utils.py:
model_version_to_prompt_version).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from mlflow_platform.kinds.base import Json
from mlflow_platform.kinds.lists import PROMPT_TAG
from mlflow_platform.kinds.tagged import tag_map
from mlflow_platform.kinds.versioned import KEY_TAG, Versioned
from mlflow_platform.kinds.versioned_document import BY_KEY, VERSIONS, Fields, versioned_traits
from mlflow_platform.model.base import Document
from mlflow_platform.model.prompt import Prompt as PromptDocument
from mlflow_platform.plan.objects import Desired, Traits, Value

#: mlflow/prompt/constants.py: PROMPT_TEXT_TAG_KEY, PROMPT_TYPE_TAG_KEY and
#: _CLIENT_PROMPT_SOURCE_PLACEHOLDER; MLflow takes no other source of a prompt.
TEXT_TAG = "mlflow.prompt.text"
TYPE_TAG = "_mlflow_prompt_type"
SOURCE = "dummy-source"
#: mlflow/prompt/constants.py: RESPONSE_FORMAT_TAG_KEY, PROMPT_MODEL_CONFIG_TAG_KEY; no document has them.
_SETTINGS = {
    "_mlflow_prompt_response_format": "the response format",
    "_mlflow_prompt_model_config": "the model configuration",
}
TEXT, CHAT = "text", "chat"

_NEW_TEXT = "restore the text, or give the new text a new key"


class Prompt(Versioned):
    """A prompt of one workspace."""

    name: ClassVar[str] = "Prompt"
    prompts: ClassVar[bool] = True
    version_text: ClassVar[str] = "commitMessage"
    undeclarable: ClassVar[str] = "its content is no text, nor messages of a role and a text each"
    traits: ClassVar[Traits] = versioned_traits("template", "type", text=version_text, remedy=_NEW_TEXT)

    def desired(self, document: Document) -> Iterator[Desired]:
        assert isinstance(document, PromptDocument)  # noqa: S101 - the registry of kinds pairs them
        contents: dict[str, dict[str, Value]] = {
            version.key: {"type": TEXT if version.messages is None else CHAT, "template": version.content}
            for version in document.spec.versions
        }
        aliases = {alias: f"{BY_KEY}{to.key}" for alias, to in document.spec.aliases.items()}
        yield self.declared(document, contents, aliases)

    def pair(self, wanted: Fields, found: Sequence[Json]) -> dict[str, Json]:
        paired = super().pair(wanted, found)
        contents = {
            p[1]: (wanted.get((VERSIONS, p[1], "type")), text)
            for p, text in wanted.items()
            if p[0] == VERSIONS and p[2:] == ("template",)
        }
        settled = {
            key
            for key, version in paired.items()
            if key in contents and (_bears_key(version) or self._identity(version) == contents[key])
        }
        # Free is what no declared key means, also the later of two versions that bear one key.
        meant = {paired[key]["version"] for key in settled}
        free: dict[tuple[Value, Value], Json] = {}
        for version in [*paired.values(), *found]:
            if version["version"] not in meant:
                free.setdefault(self._identity(version), version)
        by_content = {
            key: free[text] for key, text in contents.items() if key not in settled and text in free
        }
        moved = {version["version"] for version in by_content.values()}
        kept = {key: version for key, version in paired.items() if version["version"] not in moved}
        return {**kept, **by_content}

    def _identity(self, version: Json) -> tuple[Value, Value]:
        content = self.content(version, tag_map(version.get("tags")))
        return content["type"], content["template"]

    def content(self, version: Json, tags: Mapping[str, str]) -> dict[str, Value]:
        text = tags.get(TEXT_TAG, "")
        if tags.get(TYPE_TAG) != CHAT:
            return {"type": TEXT, "template": text}
        messages = _messages(text)
        return {"type": CHAT, "template": text if messages is None else json.dumps(messages)}

    def creation(self, content: Mapping[str, Value]) -> Json:
        tags = {PROMPT_TAG: "true", TYPE_TAG: content["type"], TEXT_TAG: content["template"]}
        return {"source": SOURCE, "tags": tags}

    def object_tags(self) -> dict[str, str]:
        return {PROMPT_TAG: "true"}

    def version_document(self, content: Mapping[str, Value]) -> Json | None:
        text = str(content.get("template") or "")
        if content.get("type") != CHAT:
            return {"template": text} if text else None
        messages = _messages(text)
        return {"messages": messages} if messages else None

    def lost_settings(self, version: Fields) -> list[str]:
        return [what for tag, what in _SETTINGS.items() if version.get(("tags", tag)) is not None]


def _bears_key(version: Json) -> bool:
    return KEY_TAG in tag_map(version.get("tags"))


def _messages(text: str) -> list[dict[str, str]] | None:
    """The messages of a chat, in the form of a document; None where they are more than that."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, list):
        return None
    messages = []
    for item in found:
        if not isinstance(item, dict) or set(item) != {"role", "content"}:
            return None
        role, content = item["role"], item["content"]
        if not (isinstance(role, str) and isinstance(content, str) and role and content):
            return None
        messages.append({"role": role, "content": content})
    return messages
