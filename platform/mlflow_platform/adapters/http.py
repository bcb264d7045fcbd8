"""HTTP as the adapter needs it: kept connections, and one deadline for everything about a request.

Not urllib3: with a time-out for each read, a server that sends a byte now and then holds a caller for
ever; and http.client is also the faster one (docs/decisions).
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

#: A kept connection is not used again after this many seconds: the servers MLflow runs on close theirs
#: after 5 (uvicorn/config.py: timeout_keep_alive) and 2 (gunicorn/config.py: Keepalive), and a request
#: sent into that moment may or may not have been carried out.
_MAX_IDLE = 1.5


class NotSent(Exception):
    """The request cannot have reached the server; the cause says why."""


class NoAnswer(Exception):
    """The request was sent, wholly or in part, and no whole answer came; the cause says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class _DeadlineReader(io.RawIOBase):
    """A socket's incoming bytes until a deadline, whatever the pace at which they come."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer) or 0

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, deadline: float, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(sock, deadline), 65536)


class Connections:
    """Kept connections to one server. Thread-safe: a connection serves one request at a time."""

    def __init__(
        self, scheme: str, host: str, port: int, *, tls: ssl.SSLContext | None, connect_timeout: float
    ) -> None:
        self._scheme, self._host, self._port = scheme, host, port
        self._tls = tls
        self._connect_timeout = connect_timeout
        self._idle: deque[tuple[http.client.HTTPConnection, float]] = deque()

    def request(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Send one request and read its answer, all within `timeout` seconds.

        Raises `NotSent` or `NoAnswer`; nothing is ever sent twice.
        """
        deadline = time.monotonic() + timeout
        connection = self._take(deadline)
        try:
            connection.request(method, target, body, headers)
            connection.response_class = partial(_Response, deadline=deadline)  # type: ignore[assignment]
            with connection.getresponse() as response:
                answer = Answer(response.status, response.headers, response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise NoAnswer from error
        except BaseException:  # a KeyboardInterrupt must not leave half an answer to the next caller
            connection.close()
            raise
        if connection.sock is not None:
            self._idle.append((connection, time.monotonic()))
        return answer

    def close(self) -> None:
        """Close the idle connections; the object stays usable."""
        while self._idle:
            self._idle.pop()[0].close()

    def _take(self, deadline: float) -> http.client.HTTPConnection:
        now = time.monotonic()
        while True:
            try:
                connection, since = self._idle.pop()
            except IndexError:
                break
            sock = connection.sock
            if sock is not None and now - since < _MAX_IDLE and not _readable(sock):
                sock.settimeout(deadline - now)
                return connection
            connection.close()
        wait = max(0.001, min(self._connect_timeout, deadline - now))
        if self._scheme == "https":
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=wait, context=self._tls)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=wait)
        try:
            connection.connect()  # sets TCP_NODELAY
        except BaseException as error:
            connection.close()
            if isinstance(error, (OSError, http.client.HTTPException, ValueError)):
                raise NotSent from error
            raise
        connection.sock.settimeout(max(0.001, deadline - time.monotonic()))
        return connection


def _readable(sock: socket.socket) -> bool:
    """Whether an idle connection has something to read: the server's goodbye, so it is of no use."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
