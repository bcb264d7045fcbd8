"""How a server ends without a failed request: it keeps answering, and sends its clients elsewhere.

uvicorn alone, told to stop by SIGTERM, closes every idle connection at once and a busy one after its answer,
unannounced: a client that is about to use it again finds it reset. A Service sends no *new* connection to a
pod that ends, but a kept one stays where it is for as long as both sides keep it, so waiting does not help.
Here, from SIGTERM on, every answer says `Connection: close`, and the client's next request goes through the
Service to another pod; new connections are still served, because load balancers learn late that a pod ends.
Only when no request has come for `MLPLATFORM_DRAIN_SECONDS` is uvicorn told to stop: what is still open then
has been idle for that long, or is waiting for an answer, which uvicorn lets it have.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, MutableMapping
from types import FrameType
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

#: Seconds without a request after which a draining process stops; unset or 0: it stops at once.
VARIABLE = "MLPLATFORM_DRAIN_SECONDS"
#: A drain ends after so many times its length even if requests go on coming, from a client that does not
#: heed `Connection: close` or knows the pod's address. The chart's grace period is longer.
LONGEST = 3
#: One answer in so many ends its connection at any time, so that clients with kept connections come to
#: pods that were added after them. A new connection costs well below a thousandth of what requests cost.
REQUESTS_A_CONNECTION = 1000
#: How the kubelet's probes begin their User-Agent (kubernetes/pkg/probe/http/request.go).
PROBE = b"kube-probe/"

CLOSE = (b"connection", b"close")
logger = logging.getLogger("uvicorn.error")


def wrap(app: Application) -> Draining:
    """The application with a drain between SIGTERM and the end, as long as the environment says."""
    return Draining(app, float(os.environ.get(VARIABLE) or 0))


class Draining:
    """An ASGI application around another; one a process, whose main thread runs its event loop."""

    def __init__(self, app: Application, seconds: float) -> None:
        self._app = app
        self._seconds = seconds
        self._draining = False
        self._last_request = 0.0
        self._ending: asyncio.Task[None] | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._take_the_signal()
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not _is_probe(scope):
            self._last_request = time.monotonic()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and (
                self._draining or random.randrange(REQUESTS_A_CONNECTION) == 0  # noqa: S311 - no secret
            ):
                message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
            await send(message)

        await self._app(scope, receive, answer)

    def _take_the_signal(self) -> None:
        """Stand before uvicorn's handler, which is in place before the application starts."""
        loop = asyncio.get_running_loop()
        uvicorn = signal.getsignal(signal.SIGTERM)

        def begin(_number: int, _frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, uvicorn)  # a second signal stops at once
            self._draining = True
            loop.call_soon_threadsafe(self._begin)

        signal.signal(signal.SIGTERM, begin)

    def _begin(self) -> None:
        self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        logger.info("Draining: stops after %g s without a request", self._seconds)
        self._last_request = time.monotonic()
        latest = self._last_request + LONGEST * self._seconds
        while (left := min(self._last_request + self._seconds, latest) - time.monotonic()) > 0:
            await asyncio.sleep(left)
        signal.raise_signal(signal.SIGTERM)


def _is_probe(scope: Message) -> bool:
    return any(n == b"user-agent" and v.startswith(PROBE) for n, v in scope["headers"])
