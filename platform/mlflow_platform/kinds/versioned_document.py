"""Documents of registered models and prompts as fields, and fields as documents: what the two have in common.

Versions and aliases are fields named by the version's key: `("versions", "v1", "source")`, and
`("aliases", "champion") -> "key:v1"`, or `"version:3"` where a document names a number.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping
from typing import ClassVar

from mlflow_platform.kinds import access
from mlflow_platform.kinds.base import Json, Kind
from mlflow_platform.kinds.declared import (
    common_document,
    importable,
    importable_text,
    listed,
    lost_tags,
    lost_text,
    sentence,
)
from mlflow_platform.kinds.tagged import check_optional, declared_tags
from mlflow_platform.model.prompt import Prompt
from mlflow_platform.model.registered_model import RegisteredModel
from mlflow_platform.plan.objects import Desired, Key, Observed, Path, Traits, Value, short

DESCRIPTION: Path = ("description",)
VERSIONS = "versions"
ALIASES = "aliases"
BY_KEY, BY_NUMBER = "key:", "version:"

#: model/registered_model.py and model/prompt.py: most versions and aliases of a document.
_MAX_VERSIONS, _MAX_ALIASES = 200, 64

Fields = Mapping[Path, Value]


def versioned_traits(*content: str, text: str, remedy: str) -> Traits:
    """The traits of a kind whose versions have this immutable content and this text of their own."""
    immutable = tuple((VERSIONS, "*", name) for name in content)
    return Traits(
        rank=30,
        immutable=immutable,
        optional=(
            DESCRIPTION,
            ("tags", "*"),
            (ALIASES, "*"),
            (VERSIONS, "*", text),
            (VERSIONS, "*", "tags", "*"),
        ),
        remedy=dict.fromkeys(immutable, remedy),
    )


class VersionedDocument(Kind):
    """From a document to fields, and back."""

    prompts: ClassVar[bool]
    version_text: ClassVar[str]
    """What a document calls the description of a version."""
    undeclarable: ClassVar[str]
    """Why `version_document` gives none."""

    @abstractmethod
    def version_document(self, content: Mapping[str, Value]) -> Json | None:
        """The fields of a version in a document; None where it cannot be declared."""

    def lost_settings(self, version: Fields) -> list[str]:
        """What people set of a version and no document can declare; paths without `versions` and the key."""
        return []

    def declared(
        self,
        document: Prompt | RegisteredModel,
        contents: Mapping[str, Mapping[str, Value]],
        aliases: Mapping[str, str],
    ) -> Desired:
        """The object of a document; `contents` are what its versions are, by key, and `aliases` point at
        `key:<key>` or `version:<number>`."""
        spec = document.spec
        fields: dict[Path, Value] = declared_tags(spec.tags)
        if spec.description is not None:
            fields[DESCRIPTION] = spec.description or None
        for version in spec.versions:
            head = (VERSIONS, version.key)
            fields[(*head, "key")] = version.key
            fields.update({(*head, name): value for name, value in contents[version.key].items()})
            text = getattr(version, self.version_text)
            if text is not None:
                fields[(*head, self.version_text)] = text or None
            fields.update(declared_tags(version.tags, head))
        fields.update({(ALIASES, alias): target for alias, target in aliases.items()})
        check_optional(fields, self.traits)
        return Desired(
            key=Key(self.name, spec.workspace, spec.name or document.metadata.name),
            origin=document.origin,
            fields=fields,
            requires=access.in_workspace(spec.workspace),
            deletion=spec.deletionPolicy,
            observe_only=spec.managementPolicy == "ObserveOnly",
            allow_replace=document.allow_replace,
            initial=frozenset((ALIASES, a) for a, to in spec.aliases.items() if to.drift == "Ignore"),
        )

    def document(self, observed: Observed) -> Json | None:
        return common_document(observed, self._imported(observed)[0])

    def left_out(self, observed: Observed) -> str | None:
        fields = observed.fields
        lost = [
            *lost_text(fields.get(DESCRIPTION)),
            *lost_tags((p[1], v) for p, v in fields.items() if p[0] == "tags"),
            *self._imported(observed)[1],
        ]
        ours = observed.mark.paths if observed.mark else ()
        aliases = sorted(p[1] for p in fields if p[0] == ALIASES and short(p) in ours)
        unknown = [f"whether {listed('alias', aliases, 'es')} had `drift: Ignore`"] if aliases else []
        return sentence(observed, lost, unknown)

    def _imported(self, observed: Observed) -> tuple[Json, list[str]]:
        """Tags, versions and aliases of a document, and what is left out of the last two."""
        fields = observed.fields
        spec: Json = {}
        lost: list[str] = []
        if tags := importable((p[1], v) for p, v in fields.items() if p[0] == "tags"):
            spec["tags"] = tags
        numbers: Mapping[str, str] = observed.handle.get("numbers") or {}
        of_versions: dict[str, dict[Path, Value]] = {}
        for path, value in fields.items():
            if path[0] == VERSIONS:
                of_versions.setdefault(path[1], {})[path[2:]] = value
        declared: list[Json] = []
        for key in sorted(numbers, key=lambda k: int(numbers[k])):
            of_version = of_versions.get(key, {})
            version, of = self._import(key, of_version), f" of version {numbers[key]}"
            twin = _twin(version, declared) if version and self.prompts else None
            if version is None:
                lost.append(f"version {numbers[key]} ({self.undeclarable})")
            elif twin:
                lost.append(f"version {numbers[key]} (the same content as version {numbers[twin]})")
            else:
                declared.append(version)
                lost += lost_text(of_version.get((self.version_text,)), self.version_text, of)
                lost += lost_tags(((p[1], v) for p, v in of_version.items() if p[0] == "tags"), of)
                lost += [f"{what}{of}" for what in self.lost_settings(of_version)]
        if len(declared) > _MAX_VERSIONS:
            older = len(declared) - _MAX_VERSIONS
            lost.append(f"its {older} oldest version(s) (a document takes {_MAX_VERSIONS})")
            declared = declared[-_MAX_VERSIONS:]
        if declared:
            spec["versions"] = declared
        aliases, lost_aliases = self._import_aliases(fields, numbers, {v["key"] for v in declared})
        if aliases:
            spec["aliases"] = aliases
        return spec, lost + lost_aliases

    def _import_aliases(
        self, fields: Fields, numbers: Mapping[str, str], keys: Collection[str]
    ) -> tuple[Json, list[str]]:
        aliases: Json = {}
        lost: list[str] = []
        for path, value in sorted((p, str(v)) for p, v in fields.items() if p[0] == ALIASES):
            key = value.removeprefix(BY_KEY)
            number = numbers.get(key) or value.removeprefix(BY_NUMBER)
            if len(aliases) == _MAX_ALIASES:
                lost.append(f"the alias {path[1]} (a document takes {_MAX_ALIASES})")
            elif key in keys:
                aliases[path[1]] = {"key": key}
            elif self.prompts:
                lost.append(f"the alias {path[1]} (of version {number}, which is left out)")
            else:
                aliases[path[1]] = {"version": int(number)}
        return aliases, lost

    def _import(self, key: str, fields: Fields) -> Json | None:
        """A version as a document declares it, from its fields without `versions` and the key."""
        content = self.version_document({p[0]: v for p, v in fields.items() if len(p) == 1})
        if content is None:
            return None
        version = {"key": key, **content}
        if text := importable_text(fields.get((self.version_text,))):
            version[self.version_text] = text
        if tags := importable((p[1], v) for p, v in fields.items() if p[0] == "tags"):
            version["tags"] = tags
        return version


def _twin(version: Json, others: Iterable[Json]) -> str | None:
    """The key of the one of the others that has the same content."""
    content = ("template", "messages")
    return next((o["key"] for o in others if all(version.get(c) == o.get(c) for c in content)), None)
