"""A wire before a real server that can be cut, and can fall silent as when a host vanishes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Wire:
    """Forwards TCP connections; `whole` again after `cut` or `silent`."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._flowing = threading.Event()
        self._flowing.set()
        self._whole = True
        self._ends: list[socket.socket] = []

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def cut(self) -> None:
        """End what is open; new connections end at once."""
        self._whole = False
        self._flowing.set()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def silent(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        self._flowing.clear()

    def whole(self) -> None:
        self._whole = True
        self._flowing.set()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._whole:
                client.close()
                continue
            server = socket.create_connection(self._upstream)
            self._ends += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for end in self._ends:
            end.close()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def before(host: str, port: int) -> Iterator[Wire]:
    """A wire to that server."""
    wire = Wire((host, port))
    thread = threading.Thread(target=wire.serve, daemon=True)
    thread.start()
    with contextlib.closing(wire):
        yield wire
    thread.join()
