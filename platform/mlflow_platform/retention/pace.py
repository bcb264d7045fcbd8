"""How fast deleting may go: the server's p99 is measured beside it, and batches wait while it is too high."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

#: Answers that make up one p99, and seconds between two questions.
_SAMPLES, _EVERY = 100, 0.02
_SHORTEST, _LONGEST = 0.02, 5.0


class Pace:
    """Asks the server something light all the time; `wait` sleeps while its p99 is above `factor` times what
    it was before anything was deleted.

    `ask` sends one request and raises where it fails: a failure counts as an answer after `_LONGEST` seconds.
    """

    def __init__(self, ask: Callable[[], None], factor: int) -> None:
        self._ask = ask
        self._factor = factor
        self._answers: deque[float] = deque(maxlen=_SAMPLES)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True, name="pace")
        self._pause = 0.0
        self.allowed = 0.0
        """Seconds: the p99 above which deleting waits."""

    def __enter__(self) -> Self:
        for _ in range(_SAMPLES):
            self._answers.append(self._time())
        self.allowed = self._factor * self.p99()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def p99(self) -> float:
        """Seconds in which 99 of the last 100 answers came."""
        answers = sorted(self._answers)
        return answers[int(0.99 * (len(answers) - 1))]

    def wait(self) -> None:
        """Sleep as long as the server needs: more while it is slow, less when it has recovered."""
        slow = self.p99() > self.allowed
        self._pause = min(_LONGEST, max(_SHORTEST, 2 * self._pause)) if slow else self._pause * 0.7
        if self._pause >= _SHORTEST:
            time.sleep(self._pause)

    def _measure(self) -> None:
        while not self._stopped.wait(_EVERY):
            self._answers.append(self._time())

    def _time(self) -> float:
        start = time.perf_counter()
        try:
            self._ask()
        except Exception:  # noqa: BLE001 - whatever it is, the server does not answer
            return _LONGEST
        return time.perf_counter() - start
