"""Where backups are: what is below a bucket's prefix or a folder, sealed where there is a key.

::

    source.json                       whose backups these are
    objects/<2>/<sha256>              content by its digest, never changed; `sealed/<2>/<name>` with a key
    backups/<name>/tracking/...       the databases, as `server.dump` writes them
    backups/<name>/objects/0.jsonl.gz the keys of each artifact root, with their digests
    backups/<name>/manifest.json      written last: without it a backup is none
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, cast

from mlflow_platform.adapters.trees import GONE, Tree
from mlflow_platform.backup import sealing
from mlflow_platform.backup.sealing import MAGIC, Key, Opening
from mlflow_platform.errors import BadInput, Fatal, Rejected
from mlflow_platform.server.dump import Sink, Source

if TYPE_CHECKING:
    from collections.abc import Iterable

OWNER = "source.json"
BACKUPS = "backups/"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Vault:
    """Named streams, each as it was given, whether it is sealed or not."""

    tree: Tree
    key: Key | None = None

    @property
    def contents(self) -> str:
        """The prefix of contents."""
        return "sealed/" if self.key else "objects/"

    def content(self, digest: str) -> str:
        """The name of content by its SHA-256 in hexadecimal digits."""
        name = self.key.name(digest) if self.key else digest
        return f"{self.contents}{name[:2]}/{name}"

    @contextlib.contextmanager
    def writing(self, name: str, size: int | None = None) -> Iterator[Sink]:
        """As a `Tree` does."""
        with self.tree.writing(name, size) as out:
            if self.key is None:
                yield out
            else:
                with sealing.sealing(out, self.key, name) as sealed:
                    yield sealed

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Source]:
        """`Rejected` with a code of `GONE` where there is none; `Fatal` where a sealed one is damaged."""
        with self.tree.reading(name) as (_, source):
            yield source if self.key is None else Opening(source, self.key, name)

    def read(self, name: str) -> bytes:
        """A small stream as a whole. `BadInput` where it is sealed and there is no key."""
        with self.reading(name) as source:
            text = _all(source)
        if self.key is None and text.startswith(MAGIC):
            raise BadInput("the backup is encrypted", remedy="give its key with --key-file")
        return text

    def finished(self) -> list[str]:
        """Names of the backups that have a manifest, oldest first."""
        end = f"/{MANIFEST}"
        names = (s.key.removeprefix(BACKUPS) for s in self.tree.listed(BACKUPS))
        return sorted(n.removesuffix(end) for n in names if n.endswith(end) and n.count("/") == 1)

    def named(self, name: str | None) -> str:
        """That backup, or the newest. Raises `BadInput` where there is none."""
        there = self.finished()
        if not there:
            raise BadInput(f"there are no backups in {self.tree.uri}", remedy="name another place")
        if name is None:
            return there[-1]
        if name not in there:
            raise BadInput(
                f"there is no backup {name} in {self.tree.uri}", remedy=f"there are: {', '.join(there[-5:])}"
            )
        return name

    def claim(self, identity: str) -> None:
        """See that these are backups of this database, or nobody's yet. Raises `BadInput` if of another one.

        What nothing refers to is deleted under the lock of one database, which another one does not hold.
        """
        try:
            with self.tree.reading(OWNER) as (_, source):
                found = json.loads(_all(source))["database"]
        except Rejected as error:
            if error.code not in GONE:
                raise
            with self.tree.writing(OWNER) as out:
                out.write(json.dumps({"database": identity}).encode())
            return
        except (ValueError, KeyError, TypeError):
            raise Fatal(f"{self.tree.uri}/{OWNER} cannot be read", remedy="name another place") from None
        if found != identity:
            raise BadInput(
                f"{self.tree.uri} holds the backups of another database",
                remedy=f"name another prefix; if that database is gone for good, delete {OWNER} there",
            )

    def delete(self, names: Iterable[str]) -> None:
        self.tree.delete(names)


def _all(source: Source) -> bytes:
    parts = []
    while part := source.read(1024 * 1024):
        parts.append(part)
    return b"".join(parts)


def as_file(stream: Sink | Source) -> IO[bytes]:
    """The stream as `gzip` has it typed, which only reads or only writes."""
    return cast("IO[bytes]", stream)
