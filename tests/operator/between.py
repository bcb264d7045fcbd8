"""What a test puts between the operator and a server: a port that can be cut, and a proxy that disturbs."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import urllib3
import yaml

from tests.operator.running import Site


class Forwarder:
    """A TCP port that leads to another one, and can be cut or frozen."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._cut = threading.Event()
        self._frozen: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and every new one."""
        self._cut.set()
        for pair in self._pairs:
            for one in pair:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._cut.clear()

    def freeze(self) -> None:
        """Connections that there are stay open and carry nothing any more; new ones work."""
        self._frozen |= {one for pair in self._pairs for one in pair}

    def close(self) -> None:
        self.cut()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self._cut.is_set():
                client.close()
                continue
            pair = client, socket.create_connection(self._target)
            self._pairs.append(pair)
            threading.Thread(target=self._both_ways, args=pair, daemon=True).start()

    def _both_ways(self, client: socket.socket, upstream: socket.socket) -> None:
        back = threading.Thread(target=self._copy, args=(upstream, client), daemon=True)
        back.start()
        self._copy(client, upstream)
        back.join()
        client.close()
        upstream.close()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                while source in self._frozen:
                    if self._cut.wait(0.5):  # what is cut does not thaw
                        return
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Refusal:
    """An answer that the server itself has not given."""

    status: int
    headers: dict[str, str]
    body: bytes = b"{}"


SILENCE = Refusal(200, {})
"""Accepted, and then nothing comes."""

Disturb = Callable[[str, str], Refusal | None]
"""What a request (method, target) gets instead of the server's answer; None passes it on."""


class Proxy:
    """An HTTP proxy in front of one server, that asks `disturb` about each request."""

    def __init__(self, upstream: str, disturb: Disturb, ca: str | None = None) -> None:
        self.disturb = disturb
        self.seen: list[tuple[float, str, str, int]] = []
        """When (`time.monotonic`), method, target and status of every request."""
        self._closed = threading.Event()
        pool = urllib3.PoolManager(ca_certs=ca, retries=False, maxsize=20)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                refusal = proxy.disturb(self.command, self.path)
                if refusal is SILENCE:
                    proxy.note(self.command, self.path, 200)
                    self._head(200, {"content-type": "application/json", "transfer-encoding": "chunked"})
                    proxy._closed.wait()
                elif refusal is not None:
                    proxy.note(self.command, self.path, refusal.status)
                    length = {"content-type": "application/json", "content-length": str(len(refusal.body))}
                    self._head(refusal.status, {**length, **refusal.headers})
                    self.wfile.write(refusal.body)
                else:
                    self._pass_on(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - as the base class asks

            def _pass_on(self, body: bytes) -> None:
                own = ("host", "connection", "content-length", "accept-encoding")
                headers = {k: v for k, v in self.headers.items() if k.lower() not in own}
                answer: Any = pool.request(
                    self.command, upstream + self.path, headers=headers, body=body, preload_content=False
                )
                proxy.note(self.command, self.path, answer.status)
                hop = ("transfer-encoding", "content-length", "connection")
                kept = {k: v for k, v in answer.headers.items() if k.lower() not in hop}
                self._head(answer.status, {**kept, "transfer-encoding": "chunked"})
                # read1: what a watch delivers is passed on as it comes.
                while chunk := answer.read1(1 << 16):
                    self._chunk(chunk)
                self._chunk(b"")
                answer.release_conn()

            def _head(self, status: int, headers: dict[str, str]) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.flush()

            def _chunk(self, data: bytes) -> None:
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None: ...  # the operator ends in mid-request

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def note(self, method: str, target: str, status: int) -> None:
        self.seen.append((time.monotonic(), method, target, status))

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()


def by_way_of(site: Site, address: str, folder: Path) -> Site:
    """The site for an operator that reaches the API server at `address`; the test's own way is straight."""
    config = yaml.safe_load(site.control_plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = address
    path = folder / "kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return replace(site, control_plane=replace(site.control_plane, kubeconfig=path))
