"""`/healthz`, `/readyz` and `/metrics` over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mlflow_platform.errors import BadInput
from mlflow_platform.operator.metrics import Metrics


def serve(host: str, port: int, ready: Callable[[], str], metrics: Metrics) -> int:
    """Answer from a thread of its own; the port, also where 0 let the system choose one.

    `ready` says what is wrong, nothing where all is well; alive is who answers. Raises `BadInput` for a port
    that cannot be had.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path == "/metrics":
                self._answer(200, metrics.text(), "text/plain; version=0.0.4; charset=utf-8")
            elif path in ("/healthz", "/readyz"):
                wrong = ready() if path == "/readyz" else ""
                self._answer(503 if wrong else 200, wrong or "ok", "text/plain; charset=utf-8")
            else:
                self._answer(404, "there are /healthz, /readyz and /metrics", "text/plain; charset=utf-8")

        def _answer(self, code: int, text: str, type_: str) -> None:
            body = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", type_)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        what = f"the port {port} for probes and metrics cannot be had: {error.strerror}"
        raise BadInput(what, remedy="name another one with --port") from None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    return int(server.server_address[1])
