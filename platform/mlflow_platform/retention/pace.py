"""When and how fast deleting may go: within the windows of the policies, and as the server's p99 allows,
which is measured beside it."""

from __future__ import annotations

import datetime
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from mlflow_platform.errors import BadInput
from mlflow_platform.model.retention_policy import RetentionPolicy
from mlflow_platform.retention import rules

#: Answers that make up one p99, and seconds between two questions.
_SAMPLES, _EVERY = 100, 0.02
_SHORTEST, _LONGEST = 0.02, 5.0


class Closed(Exception):
    """The window of a policy has closed."""


@contextmanager
def paced(
    policies: Sequence[RetentionPolicy], ask: Callable[[], None] | None
) -> Iterator[Callable[[], bool]]:
    """Gives the function to call before each batch: it waits as long as it must, says whether the server is
    slow, and raises `Closed` outside of a policy's window. `ask` sends one light request to the server;
    `BadInput` where a policy needs it and there is none."""
    factors = [p.spec.maxP99Factor for p in policies if p.spec.maxP99Factor is not None]
    if factors and ask is None:
        raise BadInput(
            "a policy says maxP99Factor, and no tracking server is given to measure",
            remedy="give its address with MLFLOW_TRACKING_URI, or leave maxP99Factor out",
        )
    with ExitStack() as until:
        pace = until.enter_context(Pace(ask, min(factors))) if factors and ask else None

        def wait() -> bool:
            moment = datetime.datetime.now(datetime.UTC)
            for policy in policies:
                if not rules.open_at(policy.spec.window, moment.hour * 60 + moment.minute):
                    raise Closed(f"the window of {policy.metadata.name} is closed; the next run goes on")
            return pace is not None and pace.wait()

        yield wait


class Pace:
    """Asks the server something light all the time; `wait` sleeps while its p99 is on the way to `factor`
    times what it was before anything was deleted, above half of the way: who begins at the limit stays there.

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
        self.allowed = (1 + self._factor) / 2 * self.p99()
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

    def wait(self) -> bool:
        """Sleep as long as the server needs: more while it is slow, less when it has recovered; whether it is
        slow."""
        slow = self.p99() > self.allowed
        self._pause = min(_LONGEST, max(_SHORTEST, 2 * self._pause)) if slow else self._pause * 0.7
        if self._pause >= _SHORTEST:
            time.sleep(self._pause)
        return slow

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
