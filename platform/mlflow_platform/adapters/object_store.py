"""What the data lifecycle needs of an object store, whichever it is."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from mlflow_platform.adapters.trees import Stat
from mlflow_platform.server.dump import Sink, Source

#: Most keys of one DeleteObjects request, and of one page of a listing (S3 API reference).
MOST_KEYS = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """One object: its key below the root, bytes, last change; `version` where all versions are listed.
    `unreadable`: why it cannot be read, where the store knows that without trying."""

    key: str
    size: int
    modified: datetime.datetime
    version: str = ""
    unreadable: str = ""

    @property
    def shown(self) -> str:
        """The key as text that every log and database takes: a file's name need not be UTF-8."""
        return self.key.encode(errors="backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class Page:
    """Objects in the store's order; `after` is where the next page begins, None at the end."""

    found: Sequence[Found]
    after: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one key was not deleted; `until` is when a lock on it ends."""

    code: str
    message: str
    until: datetime.datetime | None = None


class ObjectStore(Protocol):
    """A tree of objects; keys are relative to its root."""

    uri: str
    near: bool
    """Whether asking costs no round trip, so that each folder is best listed for itself."""

    def page(self, prefix: str, after: tuple[str, str] | None = None, limit: int = MOST_KEYS) -> Page:
        """One page of keys that begin with `prefix`, from behind (key, version) `after`."""

    def delete(self, objects: Sequence[Found]) -> Mapping[Found, Refusal]:
        """Delete up to `MOST_KEYS` objects; those that were refused. What is gone already is no refusal."""

    def read(self, key: str) -> bytes | None:
        """An object's content; None where there is none."""

    def reading(self, key: str, version: str = "") -> AbstractContextManager[tuple[Stat, Source]]:
        """As a `Tree` does, for what may be large."""

    def writing(self, key: str, size: int | None = None) -> AbstractContextManager[Sink]:
        """As a `Tree` does."""

    def create(self, key: str, body: bytes) -> bool:
        """Write an object unless it exists; whether this call wrote it."""

    def abort_uploads(self, before: datetime.datetime) -> int:
        """Abort multipart uploads that began before a time and were never finished; how many."""

    def now(self) -> datetime.datetime:
        """The store's clock."""

    def close(self) -> None: ...
