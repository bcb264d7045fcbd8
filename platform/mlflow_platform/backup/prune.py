"""Old backups go, and with them the contents that no other one refers to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mlflow_platform.backup import manifest
from mlflow_platform.backup.index import entries, known
from mlflow_platform.backup.vault import BACKUPS, MANIFEST, Vault
from mlflow_platform.errors import BadInput
from mlflow_platform.server.object_store import BATCH


@dataclass(frozen=True, slots=True)
class Keep:
    """What stays: the newest `last`, and those younger than `age`. One of both is given; the newest stays."""

    last: int | None = None
    age: timedelta | None = None

    def kept(self, created: Sequence[tuple[str, datetime]], now: datetime) -> set[str]:
        """The names that stay, of backups in the order of their times."""
        newest = {name for name, _ in created[-max(self.last or 1, 1) :]}
        young = {name for name, at in created if self.age is not None and now - at < self.age}
        return newest | young


def prune(vault: Vault, keep: Keep, now: datetime) -> int:
    """Delete what `keep` does not keep; how many backups. To be called under the lock.

    The manifests go first: killed anywhere, what is left is whole, and the next call finds what is not
    referred to. `BadInput`, and nothing is deleted, where a backup cannot be read with this key.
    """
    there = vault.finished()
    found = {name: manifest.read(vault, name) for name in there}
    kept = keep.kept([(n, datetime.fromisoformat(m.created)) for n, m in found.items()], now)
    _refuse_other_key(vault)
    gone = [name for name in there if name not in kept]
    vault.delete([f"{BACKUPS}{name}/{MANIFEST}" for name in gone])
    _delete(vault, (s.key for s in vault.tree.listed(BACKUPS) if s.key.split("/")[1] not in kept))
    with known() as needed:
        for name in kept:
            for root in found[name].roots:
                needed.add_contents(vault.content(e.sha256) for e in entries(vault, root))
        contents = (s.key for s in vault.tree.listed(vault.contents))
        _delete(vault, (key for key in contents if not needed.has_content(key)))
    return len(gone)


def _refuse_other_key(vault: Vault) -> None:
    other = "objects/" if vault.key else "sealed/"
    if next(iter(vault.tree.listed(other)), None) is not None:
        raise BadInput(
            f"{vault.tree.uri} holds encrypted backups beside others: which objects are needed is not known",
            remedy="use one prefix with a key and another one without",
        )


def _delete(vault: Vault, keys: Iterator[str]) -> None:
    batch: list[str] = []
    for key in keys:
        batch.append(key)
        if len(batch) == BATCH:
            vault.delete(batch)
            batch.clear()
    vault.delete(batch)
