"""What a purge asks of an archive; `mlflow_platform.archive.retained` answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mlflow_platform.model.retention_policy import RetentionPolicy

if TYPE_CHECKING:
    import psycopg

#: What a policy with `archive` archives.
ARCHIVED = ("run", "logged model", "trace", "version", "experiment")


class Archiver(Protocol):
    """Archives of the policies that ask for them. Kinds are those of `ARCHIVED`."""

    def ensure(self, policy: RetentionPolicy, kind: str, ids: Sequence[str]) -> str | None:
        """See that each of these that can be is in a whole and verified archive as it is now; what was done,
        in words. Raises what the stores raise: then nothing of the batch may be purged."""

    def unchanged(
        self, connection: psycopg.Connection[Any], policy: RetentionPolicy, kind: str, ids: Sequence[str]
    ) -> set[str]:
        """Those that are archived exactly as they are; within the purge's transaction, until whose end their
        rows stay as they are."""
