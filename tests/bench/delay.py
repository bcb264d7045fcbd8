"""A TCP proxy that makes every round trip longer, as a network does: `python -m tests.bench.delay`.

    python -m tests.bench.delay SECONDS HOST:PORT...

listens on a free port for each address, prints the ports on one line, and runs until its standard input ends.
What a client sends arrives SECONDS later, and so does its connect; bytes that are under way do not wait for
one another, so that the rate of a stream is what it was. A process of its own: it shares no interpreter with
what is measured.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue

_CHUNK = 1 << 18


@contextmanager
def delayed(seconds: float, addresses: Sequence[tuple[str, int]]) -> Iterator[list[int]]:
    """Ports of 127.0.0.1 behind which these addresses are, each round trip so much longer."""
    command = [sys.executable, "-m", "tests.bench.delay", str(seconds), *(f"{h}:{p}" for h, p in addresses)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield [int(port) for port in process.stdout.readline().split()]
        finally:
            process.stdin.close()
            process.wait(10)


def main(seconds: float, addresses: Sequence[str]) -> None:
    """Serve until standard input ends."""
    ports = []
    for address in addresses:
        host, _, port = address.rpartition(":")
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        ports.append(str(listener.getsockname()[1]))
        _start(_accept, listener, (host, int(port)), seconds)
    print(*ports, flush=True)
    sys.stdin.read()


def _start(run: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=run, args=arguments, daemon=True).start()


def _accept(listener: socket.socket, upstream: tuple[str, int], seconds: float) -> None:
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(upstream)
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        under_way: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
        _start(_take, client, under_way, seconds)
        _start(_give, server, under_way)
        _start(_back, server, client)


def _take(client: socket.socket, under_way: SimpleQueue[tuple[float, bytes]], seconds: float) -> None:
    """What the client sends, each piece with the time at which it arrives; empty at its end."""
    connected = time.monotonic() + seconds
    data = b"-"
    while data:
        data = b""
        with suppress(OSError):
            data = client.recv(_CHUNK)
        under_way.put((max(time.monotonic(), connected) + seconds, data))


def _give(server: socket.socket, under_way: SimpleQueue[tuple[float, bytes]]) -> None:
    with suppress(OSError):
        while True:
            due, data = under_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                break
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)


def _back(server: socket.socket, client: socket.socket) -> None:
    with suppress(OSError):
        while data := server.recv(_CHUNK):
            client.sendall(data)
    with suppress(OSError):
        client.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
