"""What a move did, or would do, and what could not come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

#: Names that are kept of one sort of thing, and shown on a terminal; all are counted.
_KEPT, _SHOWN = 1000, 5


@dataclass
class Left:
    """One sort of things that could not come, or not as they were. `names`: some of them."""

    what: str
    why: str
    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str = "") -> None:
        """One more."""
        self.count += 1
        if name and len(self.names) < _KEPT:
            self.names.append(name)

    def __str__(self) -> str:
        names = f": {', '.join(self.names[:_SHOWN])}" if self.names else ""
        more = ", ..." if self.names and self.count > _SHOWN else ""
        return f"{self.count:,} {self.what}: {self.why}{names}{more}"


@dataclass
class Moved:
    """What a move did, or would do (`dry`)."""

    source: str
    dry: bool
    experiments: dict[str, str] = field(default_factory=dict)
    """Ids at the source -> here."""
    rows: Counter[str] = field(default_factory=Counter)
    """Rows that came, by table."""
    there: Counter[str] = field(default_factory=Counter)
    """Rows that were here already and equal, by table."""
    objects: int = 0
    bytes: int = 0
    objects_there: int = 0
    unseen: Sequence[str] = ()
    """What may be at the source and stays there, since it cannot be asked for."""
    _left: dict[tuple[str, str], Left] = field(default_factory=dict)

    def leave(self, what: str, why: str, name: str = "", count: int = 1) -> None:
        """Note what does not come."""
        found = self._left.setdefault((what, why), Left(what, why))
        found.add(name)
        found.count += count - 1

    def leave_all(self, others: list[Left]) -> None:
        """Note what somebody else has noted."""
        for one in others:
            self._left[one.what, one.why] = one

    @property
    def left(self) -> list[Left]:
        """All that could not come."""
        return list(self._left.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "dryRun": self.dry,
            "experiments": self.experiments,
            "rows": {k: v for k, v in self.rows.items() if v},
            "there": {k: v for k, v in self.there.items() if v},
            "objects": self.objects,
            "bytes": self.bytes,
            "objectsThere": self.objects_there,
            "left": [asdict(one) for one in self.left],
            "unseen": list(self.unseen),
        }
