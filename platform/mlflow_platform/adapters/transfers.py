"""Many objects to or from a store: some at a time, and what fails in passing again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from typing import TypeVar

from mlflow_platform.adapters.retry import backoff
from mlflow_platform.errors import Transient

_TRIES = 4

T = TypeVar("T")
U = TypeVar("U")


def parallel(work: Callable[[U], T], items: Iterable[U], workers: int) -> Iterator[T]:
    """The results of `work`, some at a time, as they come. The first error ends it.

    Items are taken as they are needed, at most twice as many as `workers` ahead, so that memory stays flat.
    """
    running: set[Future[T]] = set()
    with ThreadPoolExecutor(workers, thread_name_prefix="transfer") as pool:
        try:
            for item in items:
                running.add(pool.submit(work, item))
                if len(running) >= 2 * workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            for future in as_completed(running):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def repeated(call: Callable[[], T]) -> T:
    """Repeat what fails in passing, some times. What is called must bear being done again."""
    for attempt in range(1, _TRIES):
        try:
            return call()
        except Transient:
            time.sleep(backoff(attempt))
    return call()
