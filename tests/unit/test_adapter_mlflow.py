"""The adapter on a small HTTP server of the test's own: connections, counts, addresses, TLS."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mlflow_platform.adapters.mlflow import MlflowApi
from mlflow_platform.adapters.s3 import S3Login
from mlflow_platform.backup.keys import ServerKeys
from mlflow_platform.cli.data import asker
from mlflow_platform.cli.stores import Stores
from mlflow_platform.errors import BadInput, Fatal, Transient
from mlflow_platform.migrate import remote


class Server(ThreadingHTTPServer):
    """Echoes requests; `connections` counts those taken, `most` the requests under way at once."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.connections = 0
        self.requests = 0
        self.under_way = 0
        self.most = 0
        self.lock = threading.Lock()
        self.hang_up = False
        self.delay = 0.0

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """Connections end as the tests want them to."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests += 1
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(self.server.delay)
        with self.server.lock:
            self.server.under_way -= 1
        if self.server.hang_up:
            self.close_connection = True
            return
        seen = {
            "method": self.command,
            "path": self.path,
            "headers": {k.lower(): v for k, v in self.headers.items()},
            "body": json.loads(body) if body else None,
        }
        answer = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - names of http.server


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_what_is_sent(server: Server) -> None:
    with MlflowApi(f"{server.uri}/mlflow/", "ann", "pä:ss") as api:
        seen = api.call("PATCH", "api/x", json={"name": "ñ"}, workspace="team-a")
        assert (seen["method"], seen["path"], seen["body"]) == ("PATCH", "/mlflow/api/x", {"name": "ñ"})
        headers = seen["headers"]
        assert headers["authorization"] == "Basic YW5uOnDDpDpzcw=="
        assert headers["x-mlflow-workspace"] == "team-a"
        assert headers["content-type"] == "application/json"
        seen = api.call("GET", "api/y", params={"filter": "a = 'ñ&'", "order_by": ["a", "b"], "n": 3})
        assert seen["path"] == "/mlflow/api/y?filter=a+%3D+%27%C3%B1%26%27&order_by=a&order_by=b&n=3"
        assert "x-mlflow-workspace" not in seen["headers"]
        assert api.call("GET", "api/ñ b\r\nX: y")["path"] == "/mlflow/api/%C3%B1%20b%0D%0AX%3A%20y"
        assert api.call("GET", "api/workspaces/a%2Fb")["path"] == "/mlflow/api/workspaces/a%2Fb"


def test_requests_are_counted(server: Server) -> None:
    with MlflowApi(server.uri) as api:
        api.call("GET", "api/x")
        api.call("POST", "api/experiments/search", json={})
        api.call("POST", "api/experiments/create", json={})
        api.call("DELETE", "api/x", json={})
        assert api.sent == {"GET": 1, "POST": 2, "DELETE": 1, "reads": 2, "writes": 2}


def test_connections_are_kept_and_bounded(server: Server) -> None:
    server.delay = 0.005
    with MlflowApi(server.uri, concurrency=4) as api, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: api.call("GET", "api/x"), range(200)))
    assert server.requests == 200
    assert server.most == 4
    assert server.connections <= 4


def test_an_idle_connection_that_the_server_has_closed_is_not_used(server: Server) -> None:
    with MlflowApi(server.uri) as api:
        api.call("POST", "api/x", json={}, idempotent=False)
        for connection, _ in api._connections._idle:
            connection.sock.shutdown(socket.SHUT_RDWR)  # as the server's goodbye looks from here
        time.sleep(0.1)
        api.call("POST", "api/x", json={}, idempotent=False)
    assert (server.requests, server.connections) == (2, 2)


def test_what_may_have_arrived_is_not_sent_again_unless_it_may(server: Server) -> None:
    server.hang_up = True
    with MlflowApi(server.uri, retry_seconds=0.3) as api:
        with pytest.raises(Transient) as told:
            api.call("POST", "api/x", json={}, idempotent=False)
        assert told.value.uncertain
        assert "gave no whole answer to POST api/x: the connection was closed" in str(told.value)
        assert server.requests == 1
        with pytest.raises(Transient):
            api.call("POST", "api/x", json={})
        assert server.requests > 2


def test_what_cannot_have_arrived_is_sent_again() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with MlflowApi(f"http://127.0.0.1:{port}", retry_seconds=0.5) as api:
            with pytest.raises(Transient) as told:
                api.call("POST", "api/x", json={}, idempotent=False)
            assert not told.value.uncertain
            assert api.sent["POST"] > 1


def test_a_rate_is_kept(server: Server) -> None:
    with MlflowApi(server.uri, requests_per_second=50) as api, ThreadPoolExecutor(8) as pool:
        start = time.monotonic()
        list(pool.map(lambda _: api.call("GET", "api/x"), range(26)))
        assert time.monotonic() - start >= 0.49


@pytest.mark.parametrize(
    "uri",
    ["", "mlflow:5000", "ftp://host", "http://", "http://u:hunter22@:80", "http://u:hunter22@host:port", "http://["],
)  # fmt: skip
def test_an_address_that_is_none(uri: str) -> None:
    with pytest.raises(BadInput) as told:
        MlflowApi(uri)
    assert "give an address such as" in str(told.value)
    assert "hunter22" not in str(told.value)


def test_a_login_in_the_address_is_used_and_never_shown(server: Server) -> None:
    with MlflowApi(server.uri.replace("://", "://ann:p%40ss@")) as api:
        assert api.call("GET", "api/x")["headers"]["authorization"] == "Basic YW5uOnBAc3M="
        assert api.address == server.uri
        assert "p@ss" not in f"{api!r} {api.address}"


class TestTls:
    """A server whose certificate the test has signed itself."""

    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
        now = datetime.now(UTC)
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path = tmp_path / "server.pem"
        path.touch(0o600)
        path.write_bytes(private + certificate.public_bytes(pem))
        return path

    @pytest.fixture
    def secure(self, server: Server, certificate: Path) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        return server.uri.replace("http://", "https://")

    def test_a_known_authority(self, secure: str, certificate: Path) -> None:
        with MlflowApi(
            secure, ca=certificate.read_text()[certificate.read_text().index("-----BEGIN C") :]
        ) as api:
            assert api.call("POST", "api/x", json={"a": "b" * 100_000})["body"] == {"a": "b" * 100_000}

    def test_a_server_that_moves_in_may_have_it_too(
        self, secure: str, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Reached(Exception):
            pass

        def create(_: Path) -> None:
            raise Reached

        monkeypatch.setattr(remote, "create", create)  # what comes after the first answer
        with pytest.raises(BadInput, match="certificate that is not trusted") as error:
            remote.open_remote(secure, tmp_path)
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in error.value.problem.remedy
        for name in ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE"):
            with monkeypatch.context() as patched:
                patched.setenv(name, str(certificate))
                with pytest.raises(Reached):
                    remote.open_remote(secure, tmp_path)

    def test_the_pace_of_retention_knows_it_too(self, secure: str, certificate: Path) -> None:
        text = certificate.read_text()
        known = Stores(
            "", None, None, [], S3Login(), ServerKeys(), secure, ca=text[text.index("-----BEGIN C") :]
        )
        ask, cannot = asker(known), asker(replace(known, ca=None))
        assert ask is not None
        ask()
        assert cannot is not None
        with pytest.raises(urllib3.exceptions.SSLError):
            cannot()

    def test_an_unknown_authority(self, secure: str) -> None:
        with MlflowApi(secure) as api, pytest.raises(Fatal) as told:
            api.call("GET", "api/x")
        assert "certificate is not trusted" in str(told.value)
        assert "caSecretRef" in str(told.value)

    def test_no_certificate(self) -> None:
        for text in ("hello", "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"):
            with pytest.raises(BadInput, match="is not PEM text"):
                MlflowApi("https://host", ca=text)
