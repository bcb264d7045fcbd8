"""A proxy before a real HTTP server that does to chosen requests what networks and gateways do."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO, Self

Fault = Callable[["Exchange"], None]
"""What becomes of one request. A fault that returns without `reply` ends the connection."""


@dataclass
class Exchange:
    """One request, and both sides of the proxy."""

    request: str
    """Method and path, without the query."""
    _raw: bytes
    _client: socket.socket
    _upstream: tuple[str, int]
    _stopped: threading.Event
    kept: bool = False

    @property
    def body(self) -> bytes:
        """Of the request."""
        return self._raw.partition(b"\r\n\r\n")[2]

    def forward(self) -> bytes:
        """Let the server carry the request out; its whole answer."""
        with socket.create_connection(self._upstream, timeout=60) as server:
            server.sendall(self._raw)
            with server.makefile("rb") as stream:
                while (whole := _message(stream)).startswith(b"HTTP/1.1 1"):
                    pass  # 100 Continue, which our client no longer waits for: it has sent its body
                return whole

    def reply(self, answer: bytes) -> None:
        """Send a whole answer; the connection is kept."""
        self._client.sendall(answer)
        self.kept = True

    def send(self, part: bytes) -> None:
        """Send a part of an answer."""
        self._client.sendall(part)

    def hold(self, seconds: float) -> bool:
        """Do nothing for a while; False when the test has ended."""
        return not self._stopped.wait(seconds)

    def reset(self) -> None:
        """End the connection by a RST, as a host does that has lost it."""
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def answer(status: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> Fault:
    """Answer in the server's place, which never sees the request. `Retry_After="1"` is a header."""
    whole = _answer(status, body, content_type, headers)
    return lambda exchange: exchange.reply(whole)


def lost(exchange: Exchange) -> None:
    """The server carries it out; then the connection ends without an answer."""
    exchange.forward()


def answered_by_gateway(status: int, **headers: str) -> Fault:
    """The server carries it out; the gateway answers that it gave up waiting."""

    def fault(exchange: Exchange) -> None:
        exchange.forward()
        exchange.reply(_answer(status, b"<html><h1>Gateway</h1></html>", "text/html", headers))

    return fault


def late(exchange: Exchange) -> None:
    """The server carries it out; its answer never comes, and the connection stays open."""
    exchange.forward()
    while exchange.hold(1):
        pass


def half_open(exchange: Exchange) -> None:
    """The other side is gone and nobody says so: the request reaches no one, nothing ever comes."""
    while exchange.hold(1):
        pass


def refused_by_reset(exchange: Exchange) -> None:
    """The connection is reset before the server has seen the request."""
    exchange.reset()


def drip(seconds: float, *, header: bool = False) -> Fault:
    """The real answer, one byte in every `seconds`: of its header, or only of its body."""

    def fault(exchange: Exchange) -> None:
        whole = exchange.forward()
        start = 0 if header else whole.index(b"\r\n\r\n") + 4
        exchange.send(whole[:start])
        with suppress(OSError):
            for i in range(start, len(whole)):
                if not exchange.hold(seconds):
                    return
                exchange.send(whole[i : i + 1])

    return fault


def truncated(exchange: Exchange) -> None:
    """The answer breaks off in the middle of its body."""
    whole = exchange.forward()
    start = whole.index(b"\r\n\r\n") + 4
    exchange.send(whole[: start + (len(whole) - start) // 2])


@dataclass
class Rule:
    """Requests that end in `path`, the first `times` of them (after `skip` others), meet the fault."""

    path: str
    fault: Fault
    times: int
    skip: int = 0

    def applies(self, request: str) -> bool:
        if not self.times or not request.endswith(self.path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass
class Proxy:
    """A running proxy. `seen` are the requests in the order in which they arrived."""

    upstream: tuple[str, int]
    seen: list[str] = field(default_factory=list)
    _rules: list[Rule] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _threads: list[threading.Thread] = field(default_factory=list)
    _open: set[socket.socket] = field(default_factory=set)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def on(self, path: str, fault: Fault, *, times: int = 1, skip: int = 0) -> None:
        """From now on, requests whose path ends so meet the fault; `times=-1` for all."""
        with self._lock:
            self._rules.append(Rule(path, fault, times, skip))

    def count(self, path: str) -> int:
        """How often a request whose path ends so has arrived."""
        with self._lock:
            return sum(request.endswith(path) for request in self.seen)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        assert not any(t.is_alive() for t in self._threads), "a connection of the proxy does not end"

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._open.add(client)
        with client, client.makefile("rb") as stream, suppress(OSError):
            while raw := _message(stream):
                method, target, _ = raw.split(b" ", 2)
                request = f"{method.decode()} {target.partition(b'?')[0].decode()}"
                with self._lock:
                    self.seen.append(request)
                    rule = next((r for r in self._rules if r.applies(request)), None)
                exchange = Exchange(request, raw, client, self.upstream, self._stopped)
                if rule is None:
                    exchange.reply(exchange.forward())
                else:
                    rule.fault(exchange)
                if not exchange.kept:
                    break
        with self._lock:
            self._open.discard(client)


def _answer(status: int, body: bytes, content_type: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Fault", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _message(stream: BinaryIO) -> bytes:
    """A whole request or answer with a Content-Length, or chunked; empty at the end."""
    lines = list(_head(stream))
    if not lines:
        return b""
    head = b"".join(lines)
    headers = {
        name.strip().lower(): value.strip().lower()
        for name, _, value in (line.partition(b":") for line in lines[1:])
    }
    if headers.get(b"transfer-encoding") == b"chunked":
        return head + b"".join(_chunks(stream))
    length = int(headers.get(b"content-length", 0))
    return head + stream.read(length)


def _head(stream: BinaryIO) -> Iterator[bytes]:
    while line := stream.readline():
        yield line
        if line == b"\r\n":
            return


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while size := stream.readline():
        yield size
        yield stream.read(int(size, 16) + 2)
        if int(size, 16) == 0:
            return


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes no connection, and refuses none either: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for one in waiting:
            one.close()
