"""HTTP as the adapter needs it: kept connections, and one deadline for everything about a request.

Not urllib3: with a time-out for each read, a server that sends a byte now and then holds a caller for
ever; and http.client is also the faster one (docs/decisions/0008-own-connections.md).
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

#: A kept connection is not used again after this many seconds: the servers MLflow runs on close theirs
#: after 5 (uvicorn/config.py: timeout_keep_alive) and 2 (gunicorn/config.py: Keepalive), and a request
#: sent into that moment may or may not have been carried out.
_MAX_IDLE = 1.5
#: Below this many seconds it is not even asked whether the server has closed it meanwhile.
_SURELY_OPEN = 0.05
#: A time-out of zero would mean one of a socket's other modes.
_SHORTEST = 0.001


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


class Connections:
    """Kept connections to one server. Thread-safe: a connection serves one request at a time."""

    def __init__(
        self,
        scheme: str,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        connect_timeout: float,
        timeout: float,
    ) -> None:
        shown = f"[{host}]" if ":" in host else host
        default = 443 if scheme == "https" else 80
        self._host_header = f"Host: {shown}{'' if port == default else f':{port}'}\r\n"
        self._scheme, self._host, self._port = scheme, host, port
        self._tls = tls
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._idle: deque[tuple[http.client.HTTPConnection, float]] = deque()
        # Whoever forgets to close leaves no socket to the garbage collector, which would warn of each.
        weakref.finalize(self, _close_all, self._idle)

    def request(
        self, method: str, target: str, headers: str, body: bytes | None, timeout: float | None = None
    ) -> Answer:
        """Send one request and read its answer, all within `timeout` seconds (None: the connections' own).
        `headers` are whole lines.

        Raises `NotSent` or `NoAnswer`; nothing is ever sent twice.
        """
        timeout = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        connection = self._take(deadline, timeout)
        length = f"Content-Length: {len(body)}\r\n" if body is not None else ""
        head = f"{method} {target} HTTP/1.1\r\n{self._host_header}{headers}{length}\r\n".encode("ascii")
        try:
            # One segment: http.client would send head and body apart.
            connection.sock.sendall(head if body is None else head + body)
            with _Response(connection.sock, method, deadline, timeout) as response:
                response.begin()
                answer = Answer(response.status, response.headers, response.read())
                keep = not response.will_close
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise NoAnswer from error
        except BaseException:  # a KeyboardInterrupt must not leave half an answer to the next caller
            connection.close()
            raise
        if keep:
            self._idle.append((connection, time.monotonic()))
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close the idle connections; the object stays usable."""
        _close_all(self._idle)

    def _take(self, deadline: float, timeout: float) -> http.client.HTTPConnection:
        now = time.monotonic()
        while True:
            try:
                connection, since = self._idle.pop()
            except IndexError:
                return self._open(deadline, timeout)
            idle = now - since
            if idle < _MAX_IDLE and (idle < _SURELY_OPEN or not _readable(connection.sock)):
                if connection.sock.gettimeout() != timeout:
                    connection.sock.settimeout(timeout)
                return connection
            connection.close()

    def _open(self, deadline: float, timeout: float) -> http.client.HTTPConnection:
        wait = min(self._connect_timeout, timeout)
        connection = (
            http.client.HTTPConnection(self._host, self._port, timeout=wait)
            if self._scheme == "http"
            else http.client.HTTPSConnection(self._host, self._port, timeout=wait, context=self._tls)
        )
        try:
            connection.connect()  # sets TCP_NODELAY
            connection.sock.settimeout(max(_SHORTEST, deadline - time.monotonic()))
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise NotSent from error
        return connection


def _close_all(idle: deque[tuple[http.client.HTTPConnection, float]]) -> None:
    while idle:
        idle.pop()[0].close()


class _Response(http.client.HTTPResponse):
    """An answer that is read until a deadline."""

    def __init__(self, sock: socket.socket, method: str, deadline: float, timeout: float) -> None:
        super().__init__(sock, method=method)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(sock, deadline, timeout), 65536)


class _DeadlineReader(io.RawIOBase):
    """A socket's incoming bytes until a deadline, whatever the pace at which they come.

    The socket's own time-out, which is for each read, is cut only where it would end more than a tenth of
    a second after the deadline: to set it costs a system call and a hand-over to another thread.
    """

    def __init__(self, sock: socket.socket, deadline: float, timeout: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self._set = timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        if self._set > left + 0.1:
            self._sock.settimeout(left)
            self._set = left
        return self._sock.recv_into(buffer)


def _readable(sock: socket.socket) -> bool:
    """Whether an idle connection has something to read: the server's goodbye, so it is of no use."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
