"""What programs share that kill themselves with SIGKILL at their n-th call of something."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any


class Death:
    """Of this process, at the call with this number. `before`: it is not made. `after`: it is made, and
    nobody reads what came of it."""

    def __init__(self, number: int, moment: str) -> None:
        self._number = number
        self._before = moment == "before"
        self._lock = threading.Lock()
        self.calls = 0

    def at(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a call, and count it; threads may."""
        with self._lock:
            self.calls += 1
            dies = self.calls == self._number
        if dies and self._before:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return call(*args, **kwargs)
        finally:
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
