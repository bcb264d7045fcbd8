"""Registered models: a version is a place where a model lies, and maybe the run that put it there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from mlflow_platform.kinds.base import Json
from mlflow_platform.kinds.versioned import Versioned
from mlflow_platform.kinds.versioned_document import BY_KEY, BY_NUMBER, versioned_traits
from mlflow_platform.model.base import Document
from mlflow_platform.model.registered_model import RegisteredModel as RegisteredModelDocument
from mlflow_platform.plan.objects import Desired, Traits, Value

#: The tag of a version that holds the source as its document has it: MLflow resolves an alias in a
#: `models:/` source, and keeps the number (mlflow/server/handlers.py:
#: _resolve_registered_model_source_lineage).
SOURCE_TAG = "mlplatform.io/source"

_OTHER_KEY = (
    "restore it, or declare the new version under a new key (v<number> is the key of a version that "
    "somebody else made)"
)
#: model/registered_model.py: the longest source of a document.
_MAX_SOURCE = 500


class RegisteredModel(Versioned):
    """A registered model of one workspace. Its versions cannot be brought back once it is deleted."""

    name: ClassVar[str] = "RegisteredModel"
    prompts: ClassVar[bool] = False
    version_text: ClassVar[str] = "description"
    undeclarable: ClassVar[str] = "no source that a document takes"
    traits: ClassVar[Traits] = versioned_traits("source", "runId", text=version_text, remedy=_OTHER_KEY)

    def desired(self, document: Document) -> Iterator[Desired]:
        assert isinstance(document, RegisteredModelDocument)  # noqa: S101 - the registry of kinds pairs them
        contents: dict[str, dict[str, Value]] = {}
        for version in document.spec.versions:
            contents[version.key] = {"source": version.source}
            if version.runId is not None:
                contents[version.key]["runId"] = version.runId
        aliases = {
            alias: f"{BY_KEY}{to.key}" if to.version is None else f"{BY_NUMBER}{to.version}"
            for alias, to in document.spec.aliases.items()
        }
        yield self.declared(document, contents, aliases)

    def content(self, version: Json, tags: Mapping[str, str]) -> dict[str, Value]:
        return {
            "source": tags.get(SOURCE_TAG) or version.get("source", ""),
            "runId": version.get("run_id", ""),
        }

    def creation(self, content: Mapping[str, Value]) -> Json:
        source = str(content["source"])
        body: Json = {"source": source}
        if content.get("runId") is not None:
            body["run_id"] = content["runId"]
        if source.lower().startswith("models:"):
            body["tags"] = {SOURCE_TAG: source}
        return body

    def version_document(self, content: Mapping[str, Value]) -> Json | None:
        source, run = str(content.get("source") or ""), content.get("runId")
        if not 0 < len(source) <= _MAX_SOURCE:
            return None
        return {"source": source, "runId": run} if run else {"source": source}
