"""Registered models: a version is a place where a model lies, and maybe the run that put it there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from mlflow_platform.kinds import access
from mlflow_platform.kinds.base import Json
from mlflow_platform.kinds.tagged import check_optional, declared_tags
from mlflow_platform.kinds.versioned import (
    ALIASES,
    BY_KEY,
    BY_NUMBER,
    DESCRIPTION,
    VERSIONS,
    Versioned,
    declared_version,
)
from mlflow_platform.model.base import Document
from mlflow_platform.model.registered_model import RegisteredModel as RegisteredModelDocument
from mlflow_platform.plan.objects import Desired, Key, Path, Traits, Value

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
    traits: ClassVar[Traits] = Traits(
        rank=30,
        immutable=((VERSIONS, "*", "source"), (VERSIONS, "*", "runId")),
        optional=(
            DESCRIPTION,
            ("tags", "*"),
            (ALIASES, "*"),
            (VERSIONS, "*", "description"),
            (VERSIONS, "*", "tags", "*"),
        ),
        remedy={(VERSIONS, "*", "source"): _OTHER_KEY, (VERSIONS, "*", "runId"): _OTHER_KEY},
    )

    def desired(self, document: Document) -> Iterator[Desired]:
        assert isinstance(document, RegisteredModelDocument)  # noqa: S101 - the registry of kinds pairs them
        spec = document.spec
        fields: dict[Path, Value] = declared_tags(spec.tags)
        if spec.description is not None:
            fields[DESCRIPTION] = spec.description or None
        for version in spec.versions:
            content: dict[str, Value] = {"source": version.source}
            if version.runId is not None:
                content["runId"] = version.runId
            if version.description is not None:
                content["description"] = version.description or None
            fields.update(declared_version(version.key, version.tags, content))
        for alias, target in spec.aliases.items():
            by_key = target.version is None
            fields[(ALIASES, alias)] = f"{BY_KEY}{target.key}" if by_key else f"{BY_NUMBER}{target.version}"
        check_optional(fields, self.traits)
        yield Desired(
            key=Key(self.name, spec.workspace, spec.name or document.metadata.name),
            origin=document.origin,
            fields=fields,
            requires=access.in_workspace(spec.workspace),
            deletion=spec.deletionPolicy,
            observe_only=spec.managementPolicy == "ObserveOnly",
            allow_replace=document.allow_replace,
            initial=frozenset((ALIASES, a) for a, t in spec.aliases.items() if t.drift == "Ignore"),
        )

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
