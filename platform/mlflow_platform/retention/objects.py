"""Objects that the journal names: found by few listings, deleted in full requests, each key's answer heeded.

Purged runs lie side by side below their experiment. One listing that walks through that folder finds the
objects of all of them; where the next one is further on than a page reaches, it jumps there. So there are
never more pages than prefixes, and for a thousand small runs a few dozen.
"""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import groupby

from mlflow_platform.adapters.object_store import MOST_KEYS, Found, ObjectStore, Refusal

#: DeleteObjects requests under way at once. More did not make one SeaweedFS faster, and are more to lose.
#: And requests that are ready meanwhile, so that none waits for a listing.
WORKERS, _READY = 4, 2
#: Keys of the smallest page: what one small run has.
_FEWEST_KEYS = 50


@dataclass
class Emptied:
    """What became of one prefix. `whole`: its listing ended and no key was refused."""

    prefix: str
    objects: int = 0
    bytes: int = 0
    problem: str | None = None
    until: datetime.datetime | None = None
    listed: bool = False
    under_way: int = 0
    failed: bool = False

    @property
    def whole(self) -> bool:
        return self.listed and not self.under_way and not self.failed


def walk(store: ObjectStore, prefixes: Iterable[str]) -> Iterator[tuple[str, list[Found], bool]]:
    """The objects below each of these prefixes, which are given in order and end in a slash.

    Yields (prefix, objects, whether that was the last of the prefix); a prefix may come more than once.
    Memory is that of one page and of the prefixes of one folder.
    """
    for folder, group in groupby(prefixes, key=str if store.near else _folder):
        yield from _walk_folder(store, folder, deque(sorted(set(group))))


def _folder(prefix: str) -> str:
    """The folder in which the thing lies: that of `1/<run>/artifacts/` is `1/`. Whatever else comes between
    the two is listed along with it, and passed over."""
    parts = prefix.rstrip("/").split("/")
    keep = len(parts) - 2 if parts[-1] == "artifacts" else len(parts) - 1
    return "".join(f"{part}/" for part in parts[:keep])


def _before(prefix: str, folder: str) -> str:
    """A key to begin behind: that of the folder around `prefix`. An object may be called like the prefix
    itself, and SeaweedFS passes over a whole folder that is named without its slash."""
    around = prefix.rstrip("/").rpartition("/")[0] + "/"
    return around if len(around) > len(folder) else prefix


def _walk_folder(
    store: ObjectStore, folder: str, pending: deque[str]
) -> Iterator[tuple[str, list[Found], bool]]:
    after: tuple[str, str] | None = None
    limit = MOST_KEYS
    while pending:
        if len(pending) == 1:  # no need to look at what lies beside it
            page = store.page(pending[0], after if after and after[0] > pending[0] else None)
        else:
            start = _before(pending[0], folder)
            if after is None or after[0] < start:
                after = (start, "")
            page = store.page(folder, after, limit)
        hits = 0
        here: list[Found] = []
        for one in page.found:
            while pending and one.key > pending[0] and not one.key.startswith(pending[0]):
                yield pending.popleft(), here, True
                here = []
            if not pending:
                return
            if one.key.startswith(pending[0]):
                here.append(one)
                hits += 1
        if page.after is None:
            while pending:
                yield pending.popleft(), here, True
                here = []
        elif here:
            yield pending[0], here, False
        after = page.after
        limit = min(MOST_KEYS, max(_FEWEST_KEYS, 2 * hits))


def empty(
    store: ObjectStore, prefixes: Iterable[str], *, pause: Callable[[], bool] = lambda: False
) -> Iterator[Emptied]:
    """Delete what is below each of these prefixes, and yield each when that is done or has failed.

    `pause` is called before each request; while it says that the server is slow, there is one at a time.
    Raises what the store raises when it cannot be asked at all.
    """
    open_: dict[str, Emptied] = {}
    running: dict[Future[tuple[list[tuple[Emptied, Found]], dict[Found, Refusal]]], None] = {}
    batch: list[tuple[Emptied, Found]] = []

    def send(pool: ThreadPoolExecutor) -> Iterator[Emptied]:
        objects = list(batch)
        batch.clear()
        slow = pause()
        yield from settled(1 if slow else WORKERS + _READY)
        running[pool.submit(_delete, store, objects)] = None
        if slow:  # nor is anything listed meanwhile
            yield from settled(1)

    def settled(least: int) -> Iterator[Emptied]:
        """Wait until fewer than `least` requests are under way; prefixes that are done by that."""
        while len(running) >= max(1, least):
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                yield from _record(future.result(), open_)

    with ThreadPoolExecutor(WORKERS, thread_name_prefix="delete") as pool:
        try:
            for prefix, objects, last in walk(store, prefixes):
                one = open_.setdefault(prefix, Emptied(prefix))
                for found in objects:
                    one.under_way += 1
                    batch.append((one, found))
                    if len(batch) == MOST_KEYS:
                        yield from send(pool)
                one.listed = last
                if one.whole:
                    yield open_.pop(prefix)
            if batch:
                yield from send(pool)
            yield from settled(1)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _delete(
    store: ObjectStore, objects: list[tuple[Emptied, Found]]
) -> tuple[list[tuple[Emptied, Found]], dict[Found, Refusal]]:
    return objects, dict(store.delete([found for _, found in objects]))


def _record(
    answer: tuple[list[tuple[Emptied, Found]], dict[Found, Refusal]], open_: dict[str, Emptied]
) -> Iterator[Emptied]:
    objects, refused = answer
    for one, found in objects:
        one.under_way -= 1
        why = refused.get(found)
        if why is None:
            one.objects += 1
            one.bytes += found.size
        else:
            one.failed = True
            one.problem = f"{found.shown}: {why.code} {why.message}".rstrip()
            one.until = max(filter(None, (one.until, why.until)), default=None)
        if one.listed and not one.under_way and one.prefix in open_:
            yield open_.pop(one.prefix)


def measure(store: ObjectStore, prefixes: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    """(prefix, objects, bytes) of what is below each of these prefixes."""
    count = size = 0
    for prefix, objects, last in walk(store, prefixes):
        count += len(objects)
        size += sum(one.size for one in objects)
        if last:
            yield prefix, count, size
            count = size = 0
