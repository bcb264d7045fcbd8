"""The objects of one root at one time: a line each, as a compressed stream, and to be looked up by key."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow_platform.adapters import temporary
from mlflow_platform.adapters.trees import Stat
from mlflow_platform.backup.manifest import Root
from mlflow_platform.backup.vault import Vault, as_file
from mlflow_platform.errors import Fatal
from mlflow_platform.server.dump import Sink


@dataclass(frozen=True, slots=True)
class Entry:
    """An object and the SHA-256 of its content."""

    stat: Stat
    sha256: str

    def line(self) -> bytes:
        s = self.stat
        return json.dumps([s.key, s.size, self.sha256, s.modified, s.etag, s.version]).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Entry:
        key, size, digest, modified, etag, version = json.loads(line)
        return cls(Stat(key, size, modified, etag, version), digest)


class Writer:
    """Lines to a stream, counted and digested."""

    def __init__(self, out: Sink) -> None:
        self._packed = gzip.GzipFile(fileobj=as_file(out), mode="wb", compresslevel=1, mtime=0)
        self._digest = hashlib.sha256()
        self.objects = self.size = 0

    def add(self, entry: Entry) -> None:
        line = entry.line()
        self._digest.update(line)
        self._packed.write(line)
        self.objects += 1
        self.size += entry.stat.size

    def finish(self) -> str:
        """The digest of what was written."""
        self._packed.close()
        return self._digest.hexdigest()


def entries(vault: Vault, root: Root) -> Iterator[Entry]:
    """The objects of a root, in no order. Raises `Fatal` where the index is not what was written."""
    digest, count = hashlib.sha256(), 0
    with vault.reading(root.index) as source:
        try:
            with gzip.GzipFile(fileobj=as_file(source), mode="rb") as lines:
                for line in lines:
                    digest.update(line)
                    yield Entry.parse(line)
                    count += 1
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise Fatal(f"{root.index} is damaged: {error}", remedy="name another backup") from error
    if (count, digest.hexdigest()) != (root.objects, root.sha256):
        raise Fatal(f"{root.index} is not what was written", remedy="name another backup")


class Known:
    """What was there before, in a file that goes with this: memory stays flat for any number of objects."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()
        self._db.execute("pragma journal_mode = off")
        self._db.execute("pragma synchronous = off")
        self._db.execute("create table content (name blob primary key) without rowid")
        self._db.execute("create table object (key blob primary key, line blob) without rowid")
        self._db.execute("begin")

    def add_contents(self, names: Iterable[str]) -> None:
        with self._lock:
            self._db.executemany("insert or ignore into content values (?)", ((_bytes(n),) for n in names))

    def has_content(self, name: str) -> bool:
        with self._lock:
            found = self._db.execute("select 1 from content where name = ?", (_bytes(name),)).fetchone()
        return found is not None

    def set_objects(self, found: Iterable[Entry]) -> None:
        """The objects of the last backup, in place of those that were set before."""
        self._db.execute("delete from object")
        self._db.executemany(
            "insert or replace into object values (?, ?)", ((_bytes(e.stat.key), e.line()) for e in found)
        )

    def object(self, key: str) -> Entry | None:
        with self._lock:
            row = self._db.execute("select line from object where key = ?", (_bytes(key),)).fetchone()
        return Entry.parse(row[0]) if row else None

    def has_object_below(self, folder: str) -> bool:
        """Whether there is an object in this folder, which does not end in a slash."""
        query = "select 1 from object where key > ? and key < ? limit 1"  # 0 comes after the slash
        with self._lock:
            return (
                self._db.execute(query, (_bytes(f"{folder}/"), _bytes(f"{folder}0"))).fetchone() is not None
            )

    def close(self) -> None:
        self._db.close()


def _bytes(name: str) -> bytes:
    """A file's name need not be UTF-8, and SQLite takes no text that is none."""
    return name.encode(errors="surrogateescape")


@contextlib.contextmanager
def known() -> Iterator[Known]:
    """An empty `Known` in a temporary file."""
    with temporary.folder("backup") as folder:
        found = Known(folder / "known")
        try:
            with contextlib.closing(found):
                yield found
        except sqlite3.Error as error:
            raise Fatal(
                f"{folder}: {error}", remedy="make room on the disk of temporary files, or set TMPDIR"
            ) from error
