"""When and how fast deleting may go: within the windows of the policies, and as the server's p99 allows,
which is measured beside it."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from mlflow_platform.errors import BadInput, Transient
from mlflow_platform.model.retention_policy import RetentionPolicy
from mlflow_platform.retention import rules

#: Answers from which the p99 of before is taken: so few rather say too little. Seconds between two questions
#: at least, and the share of a server's time that they may take.
_SAMPLES, _EVERY, _SHARE = 15, 0.05, 0.03
#: Seconds of a pause: to begin with, the shortest that there is, the longest.
_FIRST, _SHORTEST, _LONGEST = 0.1, 0.01, 5.0
#: What an answer in time makes of a pause, so that 99 of them make up for a slow one.
_RECOVERY = 0.5 ** (1 / 99)


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
    """Asks the server something light now and then; `wait` sleeps, so that no more than one answer in a
    hundred takes longer than half-way to `factor` times the p99 of before: who aims at the limit passes it.

    It begins carefully, and every slow answer doubles the pause: most of the harm would be done by the time
    that a hundred answers had made up a p99. Every other answer makes it shorter by so little that they are
    in balance at one slow one in a hundred.

    `ask` sends one request and raises where it fails: a failure counts as a slow answer.
    """

    def __init__(self, ask: Callable[[], None], factor: int) -> None:
        self._ask = ask
        self._factor = factor
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True, name="pace")
        self.pause = _FIRST
        """Seconds that `wait` sleeps."""
        self.allowed = 0.0
        """Seconds: an answer that takes longer is a slow one."""

    def __enter__(self) -> Self:
        answers = sorted(took for took in (self._time() for _ in range(_SAMPLES)) if took is not None)
        if not answers:
            raise Transient(
                "the tracking server does not answer, whose p99 is to be kept", remedy="run it again later"
            )
        self.allowed = (1 + self._factor) / 2 * answers[int(0.99 * (len(answers) - 1))]
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def wait(self) -> bool:
        """Sleep as long as the server needs; whether it needs it."""
        slow = self.pause >= _SHORTEST
        if slow:
            self._stopped.wait(self.pause)
        return slow

    def heed(self, took: float | None) -> None:
        """Make the pause longer or shorter by one answer; None: it failed."""
        if took is None or took > self.allowed:
            self.pause = min(_LONGEST, max(_SHORTEST, 2 * self.pause))
        else:
            self.pause *= _RECOVERY

    def _measure(self) -> None:
        while not self._stopped.is_set():
            self.heed(self._time())

    def _time(self) -> float | None:
        """Seconds of one answer, None where it fails; sleeps afterwards, so that asking takes no more than
        `_SHARE` of a server's time: others' requests would wait for ours."""
        start = time.perf_counter()
        try:
            self._ask()
        except Exception:  # noqa: BLE001 - whatever it is, the server does not answer
            self._stopped.wait(_EVERY)
            return None
        took = time.perf_counter() - start
        self._stopped.wait(max(_EVERY, took / _SHARE))
        return took
