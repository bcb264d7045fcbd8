"""What an apply would change, as the API server sees it: live object against its own dry run. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import yaml

#: The API server's own bookkeeping; it differs without anything having changed.
_BOOKKEEPING = ("managedFields", "resourceVersion", "generation", "creationTimestamp", "uid")


class Change(Enum):
    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    DELETED = "deleted"


@dataclass(frozen=True)
class Difference:
    """One object: `live` is None where it is made, `after` where it goes."""

    kind: str
    name: str
    live: Mapping[str, Any] | None
    after: Mapping[str, Any] | None

    @property
    def change(self) -> Change:
        if self.live is None:
            return Change.CREATED
        if self.after is None:
            return Change.DELETED
        return Change.UNCHANGED if _content(self.live) == _content(self.after) else Change.CHANGED

    def text(self) -> str:
        """As `diff -u` prints it; empty where nothing changes."""
        old, new = (_yaml(o) if o is not None else [] for o in (self.live, self.after))
        title = f"{self.kind}/{self.name}"
        return "".join(difflib.unified_diff(old, new, f"{title} (cluster)", f"{title} (deployment)"))


def _content(found: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = {k: v for k, v in found["metadata"].items() if k not in _BOOKKEEPING}
    return {**{k: v for k, v in found.items() if k != "status"}, "metadata": metadata}


def _yaml(found: Mapping[str, Any]) -> list[str]:
    return yaml.safe_dump(_content(found), sort_keys=True, allow_unicode=True).splitlines(keepends=True)
