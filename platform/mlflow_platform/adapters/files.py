"""A folder as an object store: artifact roots on a volume."""

from __future__ import annotations

import datetime
import errno
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow_platform.adapters.object_store import MOST_KEYS, Found, Page, Refusal
from mlflow_platform.adapters.trees import UNFINISHED, FileTree, Stat
from mlflow_platform.errors import BadInput
from mlflow_platform.server.dump import Sink, Source

_UNKNOWN = datetime.datetime.fromtimestamp(0, datetime.UTC)


class FileStore:
    """What is below a folder. Links are never followed: what they lead to is somebody else's."""

    near = True

    def __init__(self, uri: str) -> None:
        """`uri` is a path or `file:///path`. Raises `BadInput` where there is no such folder here."""
        parts = urlsplit(uri)
        path = unquote(parts.path) if parts.scheme == "file" else uri
        self._root = Path(os.path.normpath(path))
        if not self._root.is_absolute() or not self._root.is_dir() or self._root == Path("/"):
            raise BadInput(
                f"{uri}: there is no such folder on this machine",
                remedy="run this where the server's artifact volume is mounted, at the same path",
            )
        self._tree = FileTree(uri)
        self.uri = self._tree.uri
        self._walk: _Walk | None = None

    def page(self, prefix: str, after: tuple[str, str] | None = None, limit: int = MOST_KEYS) -> Page:
        """As every store. Who hands on the `after` of the last page gets the rest of that listing: a folder
        is read once, however many pages it makes. One that cannot be listed is there for what is in it: under
        its name with a slash, and can be neither read nor deleted."""
        walk, self._walk = self._walk, None
        if walk is None or walk.prefix != prefix or walk.after is not after:
            top = prefix.rpartition("/")[0]
            walk = _Walk(self._root, prefix, [top + "/" if top else ""], after[0] if after else "")
        found: list[Found] = []
        while len(found) < limit and (key := walk.next()) is not None:
            try:
                about = (self._root / key).lstat()
            except FileNotFoundError:
                continue
            except OSError as error:  # its folder may be listed, and not be looked into
                found.append(Found(key, 0, _UNKNOWN, unreadable=error.strerror or ""))
                continue
            changed = datetime.datetime.fromtimestamp(about.st_mtime, datetime.UTC)
            why = (
                "it is a link, and none is followed"
                if stat.S_ISLNK(about.st_mode)
                else "its folder cannot be listed"
                if key.endswith("/")
                else ""
            )
            one = Found(key, about.st_size, changed, unreadable=why)
            if not why and one.shown != key:
                one = replace(one, unreadable="its name is not UTF-8")
            found.append(one)
        walk.after = (found[-1].key, "") if found and walk.pending else None
        if walk.after is not None:
            self._walk = walk
        return Page(found, walk.after)

    def delete(self, objects: Sequence[Found]) -> Mapping[Found, Refusal]:
        refused: dict[Found, Refusal] = {}
        folders: set[Path] = set()
        for one in objects:
            path = self._root / one.key
            try:
                if one.key.endswith("/") and path.is_dir():
                    raise PermissionError(errno.EACCES, "the folder cannot be listed")
                path.unlink(missing_ok=True)
            except OSError as error:
                refused[one] = Refusal(type(error).__name__, error.strerror or "")
            else:
                folders.add(path.parent)
        for folder in folders:
            self._remove_empty(folder)
        return refused

    def _remove_empty(self, folder: Path) -> None:
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError:
                return  # not empty, or gone
            folder = folder.parent

    def read(self, key: str) -> bytes | None:
        try:
            return (self._root / key).read_bytes()
        except FileNotFoundError:
            return None

    def reading(self, key: str, version: str = "") -> AbstractContextManager[tuple[Stat, Source]]:
        return self._tree.reading(key, version)

    def writing(self, key: str, size: int | None = None) -> AbstractContextManager[Sink]:
        return self._tree.writing(key, size)

    def create(self, key: str, body: bytes) -> bool:
        try:
            with (self._root / key).open("xb") as file:
                file.write(body)
        except FileExistsError:
            return False
        return True

    def abort_uploads(self, before: datetime.datetime) -> int:
        return self._tree.clean(before)

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class _Walk:
    """Files in the order of their keys, as S3 lists them: a folder sorts as its name with a slash."""

    root: Path
    prefix: str
    pending: list[str]
    """What comes next, last first; folders that were not looked into yet end in a slash."""
    start: str
    """Keys up to this one are passed over."""
    after: tuple[str, str] | None = None
    """Where the last page ended: that very tuple is asked to go on from, none that is equal."""

    def next(self) -> str | None:
        """The next key, which ends in a slash for a folder that cannot be listed; None at the end."""
        while self.pending:
            key = self.pending.pop()
            if key and not key.endswith("/"):
                if key > self.start and key.startswith(self.prefix):
                    return key
                continue
            if key < self.start and not self.start.startswith(key):
                continue  # all that is in it comes before
            if key == f"{UNFINISHED}/":
                continue  # nobody's yet
            try:
                with os.scandir(self.root / key) as entries:
                    inside = [
                        f"{key}{entry.name}{'/' if entry.is_dir(follow_symlinks=False) else ''}"
                        for entry in entries
                    ]
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                if key <= self.start:
                    continue
                return key
            self.pending += sorted(inside, reverse=True)
        return None
