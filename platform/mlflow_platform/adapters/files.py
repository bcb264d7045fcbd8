"""A folder as an object store: artifact roots on a volume."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow_platform.adapters.object_store import MOST_KEYS, Found, Page, Refusal
from mlflow_platform.adapters.trees import FileTree, Stat
from mlflow_platform.errors import BadInput
from mlflow_platform.server.dump import Sink, Source


class FileStore:
    """What is below a folder. Links are never followed: what they lead to is somebody else's."""

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

    def page(self, prefix: str, after: tuple[str, str] | None = None, limit: int = MOST_KEYS) -> Page:
        found: list[Found] = []
        for key in self._keys(prefix, after[0] if after else ""):
            if len(found) == limit:
                return Page(found, (found[-1].key, ""))
            try:
                about = (self._root / key).lstat()
            except FileNotFoundError:
                continue
            changed = datetime.datetime.fromtimestamp(about.st_mtime, datetime.UTC)
            found.append(Found(key, about.st_size, changed))
        return Page(found, None)

    def _keys(self, prefix: str, after: str) -> Iterator[str]:
        """Files in the order of their keys, as S3 lists them: a folder sorts as its name with a slash."""
        top = prefix.rpartition("/")[0]
        pending = [top + "/" if top else ""]
        while pending:
            key = pending.pop()
            if key and not key.endswith("/"):
                if key > after and key.startswith(prefix):
                    yield key
                continue
            if key < after and not after.startswith(key):
                continue  # all that is in it comes before `after`
            try:
                with os.scandir(self._root / key) as entries:
                    inside = [
                        f"{key}{entry.name}{'/' if entry.is_dir(follow_symlinks=False) else ''}"
                        for entry in entries
                    ]
            except (FileNotFoundError, NotADirectoryError):
                continue
            pending += sorted(inside, reverse=True)

    def delete(self, objects: Sequence[Found]) -> Mapping[Found, Refusal]:
        refused: dict[Found, Refusal] = {}
        folders: set[Path] = set()
        for one in objects:
            path = self._root / one.key
            try:
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

    def abort_uploads(self, before: datetime.datetime) -> int:  # noqa: ARG002 - a folder knows none
        return 0

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)

    def close(self) -> None:
        """Nothing is open."""
