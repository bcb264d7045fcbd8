"""Objects from one store to another, with their digests, some at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from mlflow_platform.adapters import temporary
from mlflow_platform.adapters.object_store import ObjectStore
from mlflow_platform.adapters.transfers import repeated
from mlflow_platform.adapters.trees import GONE
from mlflow_platform.archive.manifest import REMEDY, Corrupted, File, Manifest
from mlflow_platform.errors import Rejected
from mlflow_platform.server.dump import Sink, Source

#: Objects under way at once; each needs a part of an upload in memory twice (server/object_store.py).
WORKERS = 4
_CHUNK = 1024 * 1024

T = TypeVar("T")


class Digest:
    """A stream that counts and hashes what is read. At its end it raises `Corrupted` where that is not what
    was `expected` (bytes, sha256 in hexadecimal digits), so that no wrong object is ever finished."""

    def __init__(self, content: Source, name: str = "", expected: tuple[int, str] | None = None) -> None:
        self._content, self._name, self._expected = content, name, expected
        self._hash = hashlib.sha256()
        self.bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        """As much as was asked for, less only at the end."""
        found = self._content.read(size)
        while size >= 0 and len(found) < size and (more := self._content.read(size - len(found))):
            found += more
        self._hash.update(found)
        self.bytes += len(found)
        if (size < 0 or len(found) < size) and self._expected not in (None, (self.bytes, self.sha256)):
            raise Corrupted(
                f"{self._name} is not what was archived: {self.bytes:,} bytes, sha256 {self.sha256}",
                remedy=REMEDY,
            )
        return found

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def copy(
    source: ObjectStore,
    key: str,
    target: ObjectStore,
    to: str,
    size: int,
    expected: tuple[int, str] | None = None,
) -> tuple[int, str] | None:
    """Copy an object; its bytes and sha256, or None where there is none. With `expected`, raises `Corrupted`
    and writes nothing where it is another."""

    def write(content: Source) -> tuple[int, str]:
        digest = Digest(content, f"{source.uri}/{key}", expected)
        with target.writing(to, size) as out:
            _pour(digest, out)
        return digest.bytes, digest.sha256

    return _read(source, key, write)


def digest_of(store: ObjectStore, key: str) -> tuple[int, str] | None:
    """Bytes and sha256 of an object; None where there is none."""

    def read(content: Source) -> tuple[int, str]:
        digest = Digest(content)
        while digest.read(_CHUNK):
            pass
        return digest.bytes, digest.sha256

    return _read(store, key, read)


def _read(store: ObjectStore, key: str, use: Callable[[Source], T]) -> T | None:
    """What `use` makes of an object's content; None where there is none. `Rejected` with the code `Changed`
    where a file was written to meanwhile."""

    def once() -> T | None:
        try:
            with store.reading(key) as (_, content):
                return use(content)
        except Rejected as error:
            if error.code in GONE:
                return None
            raise

    return repeated(once)


def _pour(content: Digest, out: Sink) -> None:
    while block := content.read(_CHUNK):
        out.write(block)


def send(store: ObjectStore, path: Path, to: str) -> tuple[int, str]:
    """Write a local file to a store; its bytes and sha256."""

    def once() -> tuple[int, str]:
        with path.open("rb") as file:
            digest = Digest(file)
            with store.writing(to, path.stat().st_size) as out:
                _pour(digest, out)
            return digest.bytes, digest.sha256

    return repeated(once)


@contextmanager
def fetched(store: ObjectStore, manifest: Manifest, file: File) -> Iterator[Path]:
    """One of an archive's files on this machine. Raises `Corrupted`, with its name, where it is another."""
    key = manifest.folder + file.path
    with temporary.folder("archive") as folder:
        path = folder / "file.parquet"

        def save(content: Source) -> bool:
            with path.open("wb") as local:
                _pour(Digest(content, f"{store.uri}/{key}", (file.bytes, file.sha256)), local)
            return True

        if _read(store, key, save) is None:
            raise Corrupted(f"{store.uri}/{key} is missing", remedy=REMEDY)
        yield path
