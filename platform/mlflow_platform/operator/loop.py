"""When rounds of one tracking server come: full ones by the clock, scoped ones by what changes."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from mlflow_platform.adapters.election import NotLeading, Term
from mlflow_platform.errors import PlatformError
from mlflow_platform.operator.metrics import Metrics
from mlflow_platform.operator.reconciling import Reconciler
from mlflow_platform.operator.rounds import Ended

log = logging.getLogger(__name__)

#: Changes that come close together are planned together: `kubectl apply` of a folder sends them one by one.
_GATHER_SECONDS = 0.05
#: So many changed documents are looked after while a full round looks at the whole server.
_FEW = 20
#: First and longest pause before a document, or a server, that failed is tried again, in seconds.
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 60.0


class ServerLoop(threading.Thread):
    """Full rounds by the clock and scoped ones by what changes, for one tracking server."""

    def __init__(self, reconciler: Reconciler, term: Term, interval: float, metrics: Metrics) -> None:
        super().__init__(name=f"server-{reconciler.name}", daemon=True)
        self._reconciler = reconciler
        self._term = term
        self._interval = interval
        self._metrics = metrics
        self._changed = threading.Condition()
        self._dirty: set[str] = set()
        self._next_full = 0.0
        self._failures = 0
        self._retries: dict[str, tuple[int, float]] = {}
        """Origin -> how often it was tried, and when it is tried again."""

    def mark(self, origin: str) -> None:
        """A document has changed."""
        with self._changed:
            self._dirty.add(origin)
            self._retries.pop(origin, None)
            self._changed.notify()

    def everything(self) -> None:
        """Have a full round soon."""
        with self._changed:
            self._next_full = 0.0
            self._failures = 0
            self._changed.notify()

    def run(self) -> None:
        while not self._term.over:
            full, origins = self._due()
            if self._term.over:
                return
            if not full and not origins:
                continue
            try:
                ended = self._full() if full else self._scoped(origins)
            except NotLeading:
                return
            self._plan_ahead(full, origins, ended)

    def _round(self, scope: str, round_: Callable[[], Ended]) -> Ended:
        """One round, or its second half. Raises `NotLeading`; what else goes wrong is told."""
        ended = Ended(well=False)
        try:
            ended = round_()
        except NotLeading:
            raise
        except PlatformError as error:
            log.warning("tracking server %s: %s", self._reconciler.name, error)
        except Exception:
            # A fault of ours in one round must not end the loop for ever; it is seen in log and metric.
            log.exception("tracking server %s: a %s round failed", self._reconciler.name, scope)
        result = "ok" if ended.well else "failed"
        self._metrics.add("rounds_total", server=self._reconciler.name, scope=scope, result=result)
        return ended

    def _scoped(self, origins: set[str]) -> Ended:
        return self._round("scoped", lambda: self._reconciler.scoped(origins))

    def _full(self) -> Ended:
        """A full round. While it lists thousands of objects, a few documents that change need not wait."""
        again: set[str] = set()
        wrote = False
        with ThreadPoolExecutor(1, "look") as pool:
            looking = pool.submit(self._reconciler.look)
            looking.add_done_callback(lambda _: self._wake())
            while not looking.done():
                origins = self._changed_meanwhile(looking)
                if not origins:
                    continue
                done = self._scoped(origins)
                again = (again - origins) | (done.again if done.well else origins)
                wrote |= done.wrote
                if not done.well:
                    break
        ended = self._round("full", lambda: looking.result()())
        ended.again |= again
        ended.wrote |= wrote
        return ended

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _changed_meanwhile(self, looking: Future[Callable[[], Ended]]) -> set[str]:
        """Wait until a few documents have changed, or the look has ended; those documents. Many are left for
        when it has: to look for them all would take as long."""
        with self._changed:
            waiting = self._failures or not self._reconciler.connected or not 0 < len(self._dirty) <= _FEW
            if waiting and not looking.done():
                self._changed.wait(1.0)
                return set()
            if looking.done():
                return set()
        time.sleep(_GATHER_SECONDS)
        with self._changed:
            found, self._dirty = self._dirty, set()
        return found

    def _due(self) -> tuple[bool, set[str]]:
        """Wait for work: whether a full round is due, and else which documents."""
        with self._changed:
            now = time.monotonic()
            retries = [] if self._failures else [at for _, at in self._retries.values()]
            pause = min([self._next_full, *retries]) - now
            work = bool(self._dirty) and not self._failures
            if not work and pause > 0:
                self._changed.wait(min(pause, 1.0))
        if not self._failures and self._dirty:
            time.sleep(_GATHER_SECONDS)
        with self._changed:
            now = time.monotonic()
            if now >= self._next_full:
                self._dirty.clear()
                self._next_full = math.inf  # sooner where `everything` asks for another one meanwhile
                return True, set()
            if self._failures:  # what has changed is part of the full round that comes
                return False, set()
            found = self._dirty | {o for o, (_, at) in self._retries.items() if at <= now}
            self._dirty = set()
            return False, found

    def _plan_ahead(self, full: bool, origins: set[str], ended: Ended) -> None:
        with self._changed:
            now = time.monotonic()
            if not ended.well:
                # A scoped round that did not go well says only that a full one is needed.
                pause = 0.0 if not full and not self._failures else pause_after(self._failures)
                self._failures += 1
                self._next_full = min(self._next_full, now + pause)
                return
            if full:
                self._failures = 0
                pause = self._interval * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
                self._next_full = min(self._next_full, now + pause)
                self._retries = {o: r for o, r in self._retries.items() if o in ended.again}
            for origin in origins - ended.again:
                self._retries.pop(origin, None)
            for origin in ended.again:
                tries = self._retries.get(origin, (0, 0.0))[0]
                # What waits for another object goes on as soon as something was made.
                pause = 0.0 if ended.wrote and tries < 2 else pause_after(tries)
                self._retries[origin] = (tries + 1, now + pause)


def pause_after(tries: int) -> float:
    """Seconds before the next try, at random around a time that doubles each time."""
    longest = min(_LONGEST_RETRY, _FIRST_RETRY * 2.0 ** min(tries, 10))
    return random.uniform(longest / 2, longest)  # noqa: S311 - no secret
