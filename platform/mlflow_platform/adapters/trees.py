"""Trees of objects as streams of bytes: listed, read and written with flat memory, in S3 or in a folder."""

from __future__ import annotations

import contextlib
import datetime
import os
import posixpath
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from mlflow_platform.errors import BadInput, Fatal, Rejected
from mlflow_platform.server.dump import Sink, Source

if TYPE_CHECKING:
    from mlflow_platform.adapters.s3 import S3Login

#: Codes of `Rejected` for an object that is not there (any more) (S3 API reference, List of error codes).
GONE = frozenset({"NoSuchKey", "NoSuchVersion", "404"})
#: Folder, below the root, of files that are being written; no listing shows them.
UNFINISHED = ".mlplatform-unfinished"


@dataclass(frozen=True, slots=True)
class Stat:
    """One object: bytes, and what differs once it is written anew. `modified` is a time of the store's."""

    key: str
    size: int
    modified: str
    etag: str = ""
    version: str = ""

    def same(self, other: Stat) -> bool:
        """Whether both say the same content. An ETag alone is no digest."""
        if self.version and self.version == other.version:
            return self.size == other.size
        return (self.size, self.modified, self.etag) == (other.size, other.modified, other.etag)


class Tree(Protocol):
    """Objects below a root; keys are relative to it. Safe for threads."""

    uri: str

    def listed(self, prefix: str = "") -> Iterator[Stat]:
        """The present objects whose keys begin so."""

    def reading(self, key: str, version: str = "") -> AbstractContextManager[tuple[Stat, Source]]:
        """An object as it is now, with its content; `Rejected` with a code of `GONE` where there is none."""

    def writing(self, key: str, size: int | None = None) -> AbstractContextManager[Sink]:
        """A new object: there when the block has ended, and not at all if it raises. `size`: about how many
        bytes it will have, where that is known."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; what is gone already is no error."""

    def clean(self) -> object:
        """Forget what a killed writer left unfinished. Nobody else may be writing."""

    def close(self) -> None: ...


class FileTree:
    """What is below a folder. Links are never followed: what they lead to is somebody else's."""

    def __init__(self, uri: str, *, create: bool = False) -> None:
        """`uri` is a path or `file:///path`. Raises `BadInput` where there is no such folder here."""
        parts = urlsplit(uri)
        self._root = Path(os.path.normpath(unquote(parts.path) if parts.scheme == "file" else uri))
        self.uri = f"file://{self._root}"
        if not self._root.is_absolute() or self._root == Path("/"):
            raise BadInput(f"{uri} is no folder for objects", remedy="write its absolute path")
        try:
            if create:
                self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{uri}: {error.strerror}", remedy="name a folder that can be made") from error
        if not self._root.is_dir():
            raise BadInput(f"{uri}: there is no such folder on this machine", remedy="name one that is")

    def listed(self, prefix: str = "") -> Iterator[Stat]:
        top = prefix.rpartition("/")[0]
        for folder, inside, names in os.walk(self._root / top, onerror=_refuse):
            inside[:] = sorted(name for name in inside if name != UNFINISHED)
            for name in sorted(names):
                path = Path(folder) / name
                key = str(path.relative_to(self._root))
                if not key.startswith(prefix):
                    continue
                try:
                    about = path.lstat()
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(about.st_mode):
                    yield _file(key, about)

    @contextlib.contextmanager
    def reading(self, key: str, version: str = "") -> Iterator[tuple[Stat, Source]]:  # noqa: ARG002 - a folder has none
        path = self._path(key.removesuffix("/"))
        try:
            with open(path, "rb", opener=_no_link) as file:
                before = _file(key, os.fstat(file.fileno()))
                yield before, file
                if not before.same(_file(key, os.fstat(file.fileno()))):
                    raise Rejected(f"{path} was written to while it was read", code="Changed")
        except FileNotFoundError as error:
            raise Rejected(f"{path} is not there", code="NoSuchKey") from error
        except OSError as error:
            if path.is_symlink():
                raise Rejected(
                    f"{path} is a link, and none is followed",
                    code="Unreadable",
                    remedy="put what it leads to in its place, or take it away",
                ) from error
            if isinstance(error, PermissionError | IsADirectoryError):
                raise Rejected(
                    f"{path}: {error.strerror}",
                    code="Unreadable",
                    remedy="run this as somebody who may read it",
                ) from error
            raise Fatal(f"{path}: {error.strerror}", remedy="check the disk and its rights") from error

    @contextlib.contextmanager
    def writing(self, key: str, size: int | None = None) -> Iterator[Sink]:  # noqa: ARG002 - a file needs no parts
        path = self._path(key)
        # Not beside it: what a killed writer leaves must not pass for one of a run's artifacts.
        unfinished = self._root / UNFINISHED / secrets.token_hex(8)
        try:
            unfinished.parent.mkdir(exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with unfinished.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(path)
                _to_disk(path.parent)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise Fatal(f"{path}: {error.strerror}", remedy="check the disk and its rights") from error

    def delete(self, keys: Iterable[str]) -> None:
        folders = set()
        for key in keys:
            path = self._path(key)
            path.unlink(missing_ok=True)
            folders.add(path.parent)
        for folder in folders:
            while folder != self._root:
                try:
                    folder.rmdir()
                except OSError:
                    break  # not empty, or gone
                folder = folder.parent

    def clean(self, before: datetime.datetime | None = None) -> int:
        """As every tree; how many. `before`: only what was not written to since, whoever may be writing."""
        count = 0
        for path in self._root.glob(f"{UNFINISHED}/*"):
            with contextlib.suppress(FileNotFoundError):
                if before is None or path.stat().st_mtime < before.timestamp():
                    path.unlink()
                    count += 1
        return count

    def close(self) -> None:
        """Nothing is open."""

    def _path(self, key: str) -> Path:
        if posixpath.normpath(key) != key or key.startswith(("/", "..")):
            raise BadInput(f"the key {key!r} is no path below {self._root}", remedy="use a bucket instead")
        return self._root / key


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _to_disk(folder: Path) -> None:
    """The names in a folder: else a power loss may keep what names a file, and lose the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse(error: OSError) -> None:
    """A folder that cannot be listed must not pass for an empty one; one that has vanished may."""
    if not isinstance(error, FileNotFoundError):
        what = f"{error.filename}: {error.strerror}"
        raise Fatal(what, remedy="run this as somebody who may read it") from error


def _file(key: str, about: os.stat_result) -> Stat:
    return Stat(key, about.st_size, str(about.st_mtime_ns), f"{about.st_ino}-{about.st_ctime_ns}")


def tree(uri: str, login: S3Login, *, create: bool = False) -> Tree:
    """The tree at `s3://BUCKET/PREFIX`, `file:///FOLDER` or `/FOLDER`."""
    from mlflow_platform.adapters.s3 import S3Tree

    return S3Tree(uri, login) if uri.startswith("s3://") else FileTree(uri, create=create)
