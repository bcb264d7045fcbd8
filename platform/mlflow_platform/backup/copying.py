"""Objects from an artifact root into a vault: each read once, large ones twice, and never held as a whole.

Content is named by its digest, which is known only when it has been read. So what is small is read into
memory, and what is large is read for its digest first and then copied, if its content is not there already.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from mlflow_platform.adapters.trees import GONE, Stat, Tree
from mlflow_platform.backup.index import Entry, Known
from mlflow_platform.backup.vault import Vault
from mlflow_platform.errors import Rejected, Transient
from mlflow_platform.server.dump import Source

#: Objects under way at once, and large ones among them: an upload of those holds two parts in memory.
WORKERS = 8
LARGE_WORKERS = 2
#: Bytes up to which an object is held in memory, and of a block of a larger one.
SMALL = 8 * 1024 * 1024
BLOCK = 1024 * 1024
#: How often an object is tried that is written to while it is read, or whose connection breaks.
TRIES = 4


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of one object: its entry, None if it has vanished; bytes that were written for it."""

    listed: Stat
    entry: Entry | None
    written: int = 0


class Copier:
    """Copies the objects of one root. `full`: trusts neither the last backup nor what is in the vault."""

    def __init__(self, tree: Tree, vault: Vault, known: Known, *, full: bool) -> None:
        self._tree, self._vault, self._known, self._full = tree, vault, known, full
        self._large = threading.Semaphore(LARGE_WORKERS)

    def copy(self, listed: Iterable[Stat]) -> Iterator[Copied]:
        """What became of each object, in the order in which they are done."""
        # Not by `transfers.parallel`: most objects are known from the last backup, and need no thread.
        running: set[Future[Copied]] = set()
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="copy") as pool:
            try:
                for stat in listed:
                    before = None if self._full else self._known.object(stat.key)
                    if before is not None and before.stat.same(stat) and self._has(before):
                        yield Copied(stat, before)
                        continue
                    running.add(pool.submit(self._one, stat))
                    if len(running) >= 2 * WORKERS:
                        done, running = wait(running, return_when=FIRST_COMPLETED)
                        yield from (future.result() for future in done)
                yield from (future.result() for future in running)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _has(self, entry: Entry) -> bool:
        """Whether the vault still has what the last backup has put there."""
        return self._known.has_content(self._vault.content(entry.sha256))

    def _one(self, stat: Stat) -> Copied:
        for attempt in range(1, TRIES + 1):
            try:
                return self._once(stat)
            except Rejected as error:
                if error.code in GONE:
                    return Copied(stat, None)
                if error.code != "Changed" or attempt == TRIES:
                    raise
            except Transient:
                if attempt == TRIES:
                    raise
        raise AssertionError("the last try returns or raises")

    def _once(self, stat: Stat) -> Copied:
        with self._tree.reading(stat.key, stat.version) as (now, source):
            if now.size <= SMALL:
                data = b"".join(_blocks(source))
                digest = hashlib.sha256(data).hexdigest()
            else:
                data, digest = b"", _digest(source)
        name = self._vault.content(digest)
        if self._known.has_content(name) and not self._full:
            return Copied(stat, Entry(now, digest))
        if now.size <= SMALL:
            with self._vault.writing(name, now.size) as out:
                out.write(data)
        else:
            self._copy_large(stat, digest, name)
        self._known.add_contents([name])
        return Copied(stat, Entry(now, digest), now.size)

    def _copy_large(self, stat: Stat, digest: str, name: str) -> None:
        with (
            self._large,
            self._tree.reading(stat.key, stat.version) as (_, source),
            self._vault.writing(name, stat.size) as out,
        ):
            again = hashlib.sha256()
            for block in _blocks(source):
                again.update(block)
                out.write(block)
            if again.hexdigest() != digest:
                raise Rejected(
                    f"{self._tree.uri}/{stat.key} was written to while it was read",
                    code="Changed",
                    remedy="run it again",
                )


def _blocks(source: Source) -> Iterator[bytes]:
    while block := source.read(BLOCK):
        yield block


def _digest(source: Source) -> str:
    digest = hashlib.sha256()
    for block in _blocks(source):
        digest.update(block)
    return digest.hexdigest()
