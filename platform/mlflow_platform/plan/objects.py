"""The values a plan is made from and made of.

An object's state is a flat mapping from a path (a tuple, as tag keys may hold dots and slashes)
to a scalar: ``("tags", "team") -> "search"``, ``("versions", "v1", "source") -> "s3://..."``.
Kinds translate documents and server answers into this form, so that one comparison serves all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal

from mlflow_platform.errors import Location, Problem

#: Objects of a kind have mostly the same fields: what is worked out for a path is kept for this many.
_PATHS = 16_384

Path = tuple[str, ...]
Value = str | int | float | bool | None
Handle = Mapping[str, Any]
"""What calls need to address an object: ids and version numbers. JSON values only."""

#: Tag that says whose an object is. Within MLflow's limits for tag keys (utils/validation.py) and for
#: the smallest tag value column, `registered_model_tags.value varchar(5000)`.
MARK_TAG = "mlplatform.io/mark"
MARK_MAX_LENGTH = 5000


class Action(StrEnum):
    """What a change does. The order of the members is their order in a summary."""

    CREATE = "create"
    ADOPT = "adopt"
    UPDATE = "update"
    REPLACE = "replace"
    FORGET = "forget"
    DELETE = "delete"

    @property
    def loses(self) -> bool:
        """Whether it gives up something that is ours: what the brake counts."""
        return self in (Action.REPLACE, Action.FORGET, Action.DELETE)

    @property
    def past(self) -> str:
        """The action as done: `created`, `forgotten`."""
        return {"adopt": "adopted", "forget": "forgotten"}.get(self.value, f"{self.value}d")


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """An object's identity on a tracking server. `workspace` is `default` where workspaces are off,
    and empty for objects outside workspaces (users, workspaces themselves)."""

    kind: str
    workspace: str
    name: str

    def __str__(self) -> str:
        place = f" in workspace {self.workspace}" if self.workspace not in ("", "default") else ""
        return f"{self.kind} {self.name!r}{place}"


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret value is found: key `key` of the Secret `name` of namespace `namespace`."""

    name: str
    key: str
    namespace: str = "default"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}/{self.key}"


@lru_cache(maxsize=_PATHS)
def short(path: Path) -> str:
    """Eight hex digits that stand for a path in a mark (marks must stay below `MARK_MAX_LENGTH`)."""
    return hashlib.sha256("\0".join(path).encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Mark:
    """Whose an object is, from which document, what its document said of deletion, and which optional
    fields (tags, aliases, ...) came from it, so that one that leaves the document leaves the server."""

    owner: str
    origin: str
    deletion: str = "Retain"
    paths: frozenset[str] = frozenset()
    intent: bool = False
    """Written before a create was sent: the object may or may not exist."""

    def to_text(self) -> str:
        data = {"owner": self.owner, "object": self.origin, "deletion": self.deletion}
        if self.paths:
            data["paths"] = " ".join(sorted(self.paths))
        if self.intent:
            data["state"] = "intent"
        return json.dumps(data)

    @classmethod
    def from_text(cls, text: str | None) -> Mark | None:
        """The mark in a tag's value; None where it is absent or was damaged by hand."""
        try:
            data = json.loads(text or "")
            return cls(
                data["owner"],
                data["object"],
                data.get("deletion", "Retain"),
                frozenset(data.get("paths", "").split()),
                data.get("state") == "intent",
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class Desired:
    """One object as a document wants it. `fields` holds exactly what the document manages."""

    key: Key
    origin: str
    """`Kind/namespace/name` of the document, `#member` appended for a member of a set."""
    fields: Mapping[Path, Value]
    secrets: Mapping[Path, SecretRef] = field(default_factory=dict)
    """Write-only fields. The engine resolves them and adds a keyed HMAC of each to `fields`."""
    requires: frozenset[Key] = frozenset()
    deletion: Literal["Retain", "Delete"] = "Retain"
    observe_only: bool = False
    allow_replace: bool = False
    initial: frozenset[Path] = frozenset()
    """Fields that are set where absent and left alone afterwards, for this object."""
    where: Location | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """One object as the server has it; all its fields, also those no document manages."""

    key: Key
    fields: Mapping[Path, Value]
    mark: Mark | None = None
    soft_deleted: bool = False
    absent: bool = False
    """Only a ledger entry is left of it (deleted by hand, or a create that never arrived)."""
    handle: Handle = field(default_factory=dict)

    @property
    def active(self) -> bool:
        return not (self.soft_deleted or self.absent)


@dataclass(frozen=True, slots=True)
class Traits:
    """What is special about fields of a kind. A `*` in a pattern stands for any one element."""

    rank: int
    """Objects of a lower rank are created first and deleted last."""
    immutable: tuple[Path, ...] = ()
    """Cannot change once the object exists; a difference is a problem with a remedy, not a change."""
    initial: tuple[Path, ...] = ()
    """Set where absent, left alone afterwards."""
    optional: tuple[Path, ...] = ()
    """Removed from the server when they leave a document that had set them."""
    exclusive: tuple[Path, ...] = ()
    """The document owns all of them: those on the server but not in the document are removed."""
    write_only: tuple[Path, ...] = ()
    """Values are keyed HMACs and never shown."""
    replaceable: bool = False
    """Whether `allow_replace` may recreate the object when an immutable field differs."""
    remedy: Mapping[Path, str] = field(default_factory=dict)
    """For an immutable pattern: what the user can do."""


@lru_cache(maxsize=_PATHS)
def matches(path: Path, patterns: tuple[Path, ...]) -> bool:
    """Whether `path` is one of the patterns."""
    return any(
        len(p) == len(path) and all(a in ("*", b) for a, b in zip(p, path, strict=True)) for p in patterns
    )


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field before and after; None is absent. `sensitive` values are never shown."""

    path: Path
    old: Value
    new: Value
    sensitive: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One object's step to its desired state, self-contained: it can be saved and executed later."""

    action: Action
    key: Key
    origin: str
    reason: str
    fields: tuple[FieldChange, ...] = ()
    mark: Mark | None = None
    """The mark the object has afterwards; None removes it."""
    secrets: Mapping[Path, SecretRef] = field(default_factory=dict)
    handle: Handle = field(default_factory=dict)
    requires: frozenset[Key] = frozenset()
    base: str = ""
    """Hash of what the plan was made from: `fingerprint` of the observed object."""

    def new(self, *path: str) -> Value:
        """The new value of a field, None where it does not change."""
        return next((f.new for f in self.fields if f.path == path), None)

    def under(self, head: str) -> dict[str, FieldChange]:
        """The changed fields of a one-level group such as `tags`, by their last element."""
        return {f.path[1]: f for f in self.fields if len(f.path) == 2 and f.path[0] == head}


@dataclass(frozen=True, slots=True)
class ObjectProblem:
    """Why an object cannot be brought to its desired state."""

    key: Key
    origin: str
    problem: Problem
    blocked: bool = False
    """It waits for another object rather than being wrong itself."""
    names: tuple[str, ...] = ()
    """The names in the document that it is about, so that their place can be shown."""


def fingerprint(observed: Observed | None, paths: frozenset[Path] | set[Path]) -> str:
    """A hash of the fields at `paths`, the mark and the life-cycle of an observed object."""
    if observed is None or observed.absent:
        return "absent"
    fields = sorted((list(p), observed.fields.get(p)) for p in paths)
    mark = observed.mark.to_text() if observed.mark else None
    text = json.dumps([fields, mark, observed.soft_deleted, observed.handle], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
