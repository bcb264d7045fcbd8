"""Where a source's artifacts can be read: from the addresses in its rows to folders, buckets, its proxy."""

from __future__ import annotations

import posixpath
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from mlflow_platform.adapters.object_store import ObjectStore
from mlflow_platform.errors import BadInput
from mlflow_platform.server.dump import Source

#: Path of the artifact proxy in an address (mlflow/server/handlers.py, `_get_rest_path`).
_PROXY = re.compile(r"^/?(?:api/2\.0/mlflow-artifacts/artifacts/)?")


class Reader(Protocol):
    """A tree of files to copy from; keys are relative to its root."""

    uri: str

    def files(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Keys that begin with `prefix`, which ends in a slash, and their bytes."""

    def reading(self, key: str) -> AbstractContextManager[Source]:
        """A file's content. Raises `Rejected` with a code of `GONE` where there is none."""

    def close(self) -> None: ...


class Stored:
    """A folder or a bucket's prefix."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.uri = store.uri

    def files(self, prefix: str) -> Iterator[tuple[str, int]]:
        after = None
        while True:
            page = self._store.page(prefix, after)
            yield from ((one.key, one.size) for one in page.found)
            after = page.after
            if after is None:
                return

    @contextmanager
    def reading(self, key: str) -> Iterator[Source]:
        with self._store.reading(key) as (_, content):
            yield content

    def close(self) -> None:
        self._store.close()


def normal(uri: str) -> str:
    """One spelling of an address: a local one is a path, one through the proxy has no host; no slash ends."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        path = unquote(parts.path) if parts.scheme else uri
        return posixpath.normpath(path) if path else ""
    path = parts.path
    if parts.scheme == "mlflow-artifacts" or (
        parts.scheme in ("http", "https") and "mlflow-artifacts/" in path
    ):
        return "mlflow-artifacts:/" + _PROXY.sub("", path).strip("/")
    return f"{parts.scheme}://{parts.netloc}{path.rstrip('/')}"


@dataclass
class Places:
    """Finds readers. `moves`: addresses -> the place where they really are; the longest one is taken."""

    open_store: Callable[[str], ObjectStore]
    moves: Mapping[str, str] = field(default_factory=dict)
    base: Path | None = None
    """What relative addresses are relative to; None where local ones are another machine's."""
    proxied: Callable[[], Reader] | None = None
    _open: dict[str, Reader] = field(default_factory=dict)

    def find(self, uri: str) -> tuple[Reader, str] | str | None:
        """Reader and prefix, or why there is none, in words that are the same for all alike; None for a
        folder that is not there: MLflow makes one with the first artifact."""
        address = normal(uri)
        for old, new in sorted(self.moves.items(), key=lambda pair: -len(pair[0])):
            rest = _below(address, normal(old) if old != "mlflow-artifacts:" else "mlflow-artifacts:")
            if rest is not None:
                reader = self._reader(new)
                return (reader, f"{rest}/" if rest else "") if reader else None
        if address.startswith("mlflow-artifacts:"):
            if self.proxied is None:
                return "they are behind the source server's proxy; say where its store is: --artifacts PLACE"
            if "" not in self._open:
                self._open[""] = self.proxied()
            return self._open[""], address.removeprefix("mlflow-artifacts:").strip("/") + "/"
        if address.startswith("s3://"):
            bucket, _, prefix = address.removeprefix("s3://").partition("/")
            reader = self._reader(f"s3://{bucket}")
            return (reader, f"{prefix}/" if prefix else "") if reader else None
        if "://" in address:
            return (
                f"{address.partition('://')[0]}:// cannot be read; copy them, and say --artifacts OLD=PLACE"
            )
        if self.base is None:
            return "they are on the source's own disk; copy them, and say --artifacts OLD=PLACE"
        path = self.base / address
        try:
            if not _is_folder(path):
                return None
        except BadInput:
            return "they cannot be read by this login; run this as somebody who may"
        return Stored(self.open_store(str(path))), ""

    def _reader(self, place: str) -> Reader | None:
        if place not in self._open:
            if "://" not in place and not _is_folder(Path(place)):
                return None
            self._open[place] = Stored(self.open_store(place))
        return self._open[place]

    def close(self) -> None:
        for reader in self._open.values():
            reader.close()


def parse_moves(given: tuple[str, ...]) -> dict[str, str]:
    """`--artifacts [OLD=]PLACE`: PLACE alone is where the source's proxy keeps artifacts."""
    found: dict[str, str] = {}
    for one in given:
        old, equal, place = one.rpartition("=")
        old = (old if equal else "mlflow-artifacts:").rstrip("/")
        if not old or not place or old in found:
            raise BadInput(f"--artifacts {one}: this is no place", remedy="write --artifacts [OLD=]PLACE")
        if not place.startswith("s3://"):
            place = str(
                Path(unquote(urlsplit(place).path) if place.startswith("file:") else place).absolute()
            )
            if not _is_folder(Path(place)):
                raise BadInput(f"--artifacts {one}: there is no such folder", remedy="correct it")
        found[old] = place.rstrip("/")
    return found


def _is_folder(path: Path) -> bool:
    """Raises `BadInput` where this login may not look."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", remedy="run this as somebody who may read it") from error


def _below(address: str, root: str) -> str | None:
    """What comes after a root; None for an address that is not below it."""
    if address == root:
        return ""
    start = root if root.endswith(":") else root + "/"
    return address[len(start) :].strip("/") if address.startswith(start) else None
