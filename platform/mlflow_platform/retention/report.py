"""What a plan would do and what a run did, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Share:
    """What concerns one experiment; versions of registered models belong to none."""

    name: str
    quarantined: Counter[str] = field(default_factory=Counter)
    purged: Counter[str] = field(default_factory=Counter)
    objects: int = 0
    bytes: int = 0


@dataclass
class Report:
    """A whole plan or run. Kinds are `run`, `logged model`, `trace`, `version`, `experiment`, `orphan`."""

    dry: bool
    experiments: dict[int | None, Share] = field(default_factory=dict)
    kept: Counter[str] = field(default_factory=Counter)
    """What a rule chose and something protects, by reason."""
    rows: Counter[str] = field(default_factory=Counter)
    """Deleted rows by table."""
    problems: list[str] = field(default_factory=list)
    """What could not be done, and stays in the journal for the next run."""
    notes: list[str] = field(default_factory=list)
    waiting: int = 0
    """Objects' places that wait in the journal: refused, locked, or in a store that was not given."""
    hash: str = ""
    """Names what is chosen, for `--allow-destructive`."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What took how long: choosing, rows, objects."""
    stopped: str = ""
    """Why it ended before all was done, where that is no error."""

    def share(self, experiment: int | None, names: dict[int, str] | None = None) -> Share:
        if experiment not in self.experiments:
            name = (names or {}).get(experiment, "") if experiment is not None else ""
            self.experiments[experiment] = Share(name)
        return self.experiments[experiment]

    @property
    def empty(self) -> bool:
        return not any(s.quarantined or s.purged or s.objects for s in self.experiments.values())

    def total(self, what: str) -> Counter[str]:
        """Counts of `quarantined` or `purged` by kind."""
        found: Counter[str] = Counter()
        for share in self.experiments.values():
            found.update(getattr(share, what))
        return found

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        shares = sorted(self.experiments.items(), key=lambda item: -1 if item[0] is None else item[0])
        return {
            "dryRun": self.dry,
            "hash": self.hash,
            "quarantined": dict(self.total("quarantined")),
            "purged": dict(self.total("purged")),
            "objects": sum(s.objects for s in self.experiments.values()),
            "bytes": sum(s.bytes for s in self.experiments.values()),
            "experiments": [
                {
                    "id": None if i is None else str(i),
                    "name": s.name,
                    "quarantined": dict(s.quarantined),
                    "purged": dict(s.purged),
                    "objects": s.objects,
                    "bytes": s.bytes,
                }
                for i, s in shares
            ],
            "kept": {reason: count for reason, count in self.kept.items() if count},
            "rows": {table: count for table, count in self.rows.items() if count},
            "waiting": self.waiting,
            "seconds": {phase: round(took, 3) for phase, took in self.seconds.items()},
            "stopped": self.stopped,
            "notes": self.notes,
            "problems": self.problems,
        }
