"""The REST interface of an MLflow server: one place that sends, retries and tells errors apart."""

from __future__ import annotations

import base64
import http.client
import json as jsonlib
import math
import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

from mlflow_platform.adapters import answers
from mlflow_platform.adapters.http import Answer, Connections, NoAnswer, NotSent
from mlflow_platform.adapters.retry import Budget, Pace, backoff
from mlflow_platform.errors import BadInput, Fatal, PlatformError, Rejected, Transient

#: mlflow/utils/workspace_utils.py: WORKSPACE_HEADER_NAME.
WORKSPACE_HEADER = "X-MLFLOW-WORKSPACE"
#: Versions whose REST interface the kinds are written for: `>= first`, `< second`.
SUPPORTED_VERSIONS = ((3, 17), (4, 0))

_SERVER_INFO = "api/3.0/mlflow/server-info"
_CURRENT_USER = "api/2.0/mlflow/users/current"
_WORKSPACES = "api/3.0/mlflow/workspaces"
#: How often a request is repeated that the server answers with 500: a second time may help, a tenth does
#: not.
_TRIES_AT_500 = 3
#: A server that is asked for the first time, while somebody waits at a terminal: for how long a read that
#: fails is repeated, and how long one answer may take.
_PROBE_SECONDS = 5.0
_PROBE_TIMEOUT = 10.0
_SECRET_FIELD = re.compile("password|secret")

T = TypeVar("T")


@dataclass(frozen=True)
class Features:
    """What a server is and what it has switched on."""

    version: str
    auth: bool
    """Basic authentication is on."""
    username: str | None
    admin: bool
    """The login may do everything; always so where authentication is off."""
    workspaces_on: bool
    workspaces: tuple[str, ...]
    """All workspace names; only `default` where workspaces are off."""


class MlflowApi:
    """`kinds.base.Api` over HTTP. Thread-safe; keeps at most `concurrency` connections.

    A request is repeated, with full jitter, after connection errors, time-outs, 429, 502, 503, 504 and,
    a few times, 500, for at most `retry_seconds`; all calls share that time while none succeeds.
    Retry-After is honoured, for all threads. One attempt takes at most `timeout` seconds from its first
    byte out to its last byte in. A login in the address is used and never shown.

    `ca` is PEM text: the certificate authority that signed the server's certificate, where the system's
    own do not know it. `gate` is called right before each request and raises where none may be sent any more.
    Raises `BadInput` for an address that cannot be one, or such a text.
    """

    def __init__(
        self,
        tracking_uri: str,
        username: str | None = None,
        password: str | None = None,
        ca: str | None = None,
        concurrency: int = 8,
        requests_per_second: float | None = None,
        *,
        connect_timeout: float = 5.0,
        timeout: float = 120.0,
        retry_seconds: float = 60.0,
        gate: Callable[[], None] = lambda: None,
    ) -> None:
        parts = _split(tracking_uri)
        host, port = parts.hostname or "", parts.port
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{parts.scheme}://{shown}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
        """The server's address without a login."""
        self._base = quote(parts.path.rstrip("/"), safe="/%") + "/"
        if username is None and parts.username is not None:
            username, password = unquote(parts.username), unquote(parts.password or "")
        self.username = username
        self._password = password
        self._headers = "Accept: application/json\r\nUser-Agent: mlplatform\r\n"
        if username is not None:
            token = base64.b64encode(f"{username}:{password or ''}".encode()).decode()
            self._headers += f"Authorization: Basic {token}\r\n"
        self._connections = Connections(
            parts.scheme,
            host,
            port or (443 if parts.scheme == "https" else 80),
            tls=tls(ca) if parts.scheme == "https" else None,
            connect_timeout=connect_timeout,
            timeout=timeout,
        )
        self._slots = threading.BoundedSemaphore(concurrency)
        self._pace = Pace(requests_per_second)
        self._timeout = timeout
        self._gate = gate
        self._budget = Budget(retry_seconds)
        self._lock = threading.Lock()
        self._sent: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"MlflowApi({self.address!r})"

    def __enter__(self) -> MlflowApi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections; the object stays usable."""
        self._connections.close()

    @property
    def sent(self) -> Mapping[str, int]:
        """Requests sent so far, repeated ones too, by method; `reads` and `writes` add up to all."""
        with self._lock:
            return dict(self._sent)

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        workspace: str | None = None,
        idempotent: bool = True,
    ) -> dict[str, Any]:
        """One request; see `kinds.base.Api`.

        Raises `Rejected`, `Transient` (`uncertain` where the request may have been carried out) and
        `Fatal`.
        """
        target = quote(path, safe="/%")
        if params:
            target += "?" + urlencode(params, doseq=True)
        headers = self._headers
        if workspace is not None:
            headers += f"{WORKSPACE_HEADER}: {quote(workspace)}\r\n"
        body = None
        if json is not None:
            body = jsonlib.dumps(json).encode()
            headers += "Content-Type: application/json\r\n"

        def decode(answer: Answer) -> dict[str, Any]:
            return self._parse(answer, f"{method} {path}", json)

        return self._ask(method, target, headers, body, decode, idempotent=idempotent)

    def features(self) -> Features:
        """Ask the server what it is: at most four reads, each given up after 10 seconds without an answer,
        and not repeated for longer than 5.

        Raises `Transient` where it cannot be reached or does not answer, `Fatal` where it is not an MLflow
        server, not a supported version, or refuses the login.
        """
        try:
            info = self._probe(_SERVER_INFO)
        except Rejected as error:
            raise Fatal(
                f"{self.address} is not an MLflow server, or one older than "
                f"{_dotted(SUPPORTED_VERSIONS[0])}: {error.problem.what}",
                remedy="check the tracking URI, its path too",
            ) from None
        if "workspaces_enabled" not in info:
            raise Fatal(f"{self.address} is not an MLflow server", remedy="check the tracking URI")
        version = self._ask("GET", "version", self._headers, None, self._version, probe=True)
        try:
            user: dict[str, Any] | None = self._probe(_CURRENT_USER).get("user") or {}
        except Rejected as error:
            if error.code != "ENDPOINT_NOT_FOUND":
                raise
            user = None  # the routes of mlflow/server/auth/routes.py exist only where it is on
        workspaces: tuple[str, ...] = ("default",)
        if info["workspaces_enabled"]:
            workspaces = tuple(w["name"] for w in self._probe(_WORKSPACES).get("workspaces") or ())
        return Features(
            version=version,
            auth=user is not None,
            username=(user or {}).get("username"),
            admin=user is None or bool(user.get("is_admin")),
            workspaces_on=bool(info["workspaces_enabled"]),
            workspaces=workspaces,
        )

    def _probe(self, path: str) -> dict[str, Any]:
        def decode(answer: Answer) -> dict[str, Any]:
            return self._parse(answer, f"GET {path}")

        return self._ask("GET", path, self._headers, None, decode, probe=True)

    def _version(self, answer: Answer) -> str:
        """The server's version, which it gives as plain text (mlflow/server/__init__.py: version)."""
        if answer.status != 200:
            self._parse(answer, "GET version")
        text = answer.body[:100].decode("utf-8", "replace").strip()
        found = re.match(r"(\d+)\.(\d+)", text)
        if not found:
            raise Fatal(f"{self.address} is not an MLflow server", remedy="check the tracking URI")
        low, high = SUPPORTED_VERSIONS
        if not low <= (int(found[1]), int(found[2])) < high:
            raise Fatal(
                f"{self.address} runs MLflow {text}; supported is {_dotted(low)} up to, not including, "
                f"{_dotted(high)}",
                remedy="upgrade the server, or use the mlflow-platform of its time",
            )
        return text

    def _ask(
        self,
        method: str,
        target: str,
        headers: str,
        body: bytes | None,
        decode: Callable[[Answer], T],
        *,
        idempotent: bool = True,
        probe: bool = False,
    ) -> T:
        """Send, decode, and repeat what is transient; for a probe, with less patience."""
        what = f"{method} {target.partition('?')[0]}"
        kind = "reads" if method == "GET" or target.endswith("/search") else "writes"
        timeout = min(self._timeout, _PROBE_TIMEOUT) if probe else self._timeout
        start = time.monotonic()
        attempt = 0
        while True:
            attempt += 1
            until = min(self._budget.until(start), start + _PROBE_SECONDS if probe else math.inf)
            self._wait(until)
            answer = None
            try:
                with self._slots:
                    self._gate()
                    self._count(method, kind)
                    answer = self._connections.request(method, self._base + target, headers, body, timeout)
                value = decode(answer)
            except Transient as error:
                failure = error
            except (NotSent, NoAnswer) as error:
                failure = self._lost(error, what, timeout)
            except PlatformError:
                self._budget.succeeded()  # the server is there, and knows what it does not want
                raise
            else:
                self._budget.succeeded()
                return value
            now = time.monotonic()
            self._budget.failed(now)
            pause = backoff(attempt) if failure.retry_after is None else failure.retry_after
            at_500 = answer is not None and answer.status == 500 and attempt >= _TRIES_AT_500
            if at_500 or (failure.uncertain and not idempotent) or now + pause > until:
                raise failure
            if failure.retry_after is not None:
                self._pace.pause(now + pause)
                pause += backoff(1)  # or all threads come back in the same instant
            time.sleep(pause)

    def _wait(self, until: float) -> None:
        """Wait for this thread's turn; raise `Transient` where it comes too late, or the server is away."""
        now = time.monotonic()
        if self._budget.spent(now):
            raise Transient(f"{self.address} has not answered for a while; not tried again yet")
        delay = self._pace.reserve(now)
        if delay > 0:
            if now + delay > max(until, now):
                raise Transient(f"{self.address} asks to be left alone for {delay:.0f} s", retry_after=delay)
            time.sleep(delay)

    def _count(self, method: str, kind: str) -> None:
        with self._lock:
            self._sent[method] += 1
            self._sent[kind] += 1

    def _parse(self, answer: Answer, what: str, json: Mapping[str, Any] | None = None) -> dict[str, Any]:
        # What no message may hold, even if a server sends it back.
        hide = [v for k, v in (json or {}).items() if isinstance(v, str) and v and _SECRET_FIELD.search(k)]
        if self._password:
            hide.append(self._password)
        return answers.parse(answer, what, self.address, hide=hide, anonymous=self.username is None)

    def _lost(self, error: NotSent | NoAnswer, what: str, timeout: float) -> Transient:
        """The error for a request without a whole answer. Raises `Fatal` where TLS cannot work."""
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise Fatal(
                f"{self.address}: the server's certificate is not trusted: {cause.verify_message}",
                remedy="give the certificate authority that signed it (TrackingServer.spec.caSecretRef)",
            ) from None
        if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
            raise Fatal(
                f"{self.address} does not speak TLS on that port", remedy="use http://, or another port"
            ) from None
        if isinstance(error, NotSent):
            why = "the name is unknown" if isinstance(cause, socket.gaierror) else _plain(cause)
            return Transient(
                f"cannot connect to {self.address}: {why}",
                remedy="check the tracking URI, and that the server runs",
            )
        if isinstance(cause, TimeoutError):
            return Transient(
                f"{self.address} took the connection, but gave no whole answer to {what} within "
                f"{timeout:g} s: timed out",
                uncertain=True,
                remedy="check the tracking URI, and whether the server is overloaded or stuck",
            )
        return Transient(f"{self.address} gave no whole answer to {what}: {_plain(cause)}", uncertain=True)


def _split(tracking_uri: str) -> SplitResult:
    """The parts of a tracking URI. Raises `BadInput`, which never shows the login in it."""
    remedy = "give an address such as https://mlflow.example.com or http://127.0.0.1:5000"
    try:
        parts = urlsplit(tracking_uri.strip())
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise BadInput("the tracking URI is not a valid address", remedy=remedy) from None
    if not valid:
        raise BadInput("the tracking URI is not the address of an HTTP server", remedy=remedy)
    return parts


def tls(ca: str | None) -> ssl.SSLContext:
    """How servers are trusted: by an authority (PEM), else by the system's. `BadInput` where it is none."""
    try:
        return ssl.create_default_context(cadata=ca)
    except (ssl.SSLError, ValueError):
        raise BadInput(
            "the certificate authority is not PEM text",
            remedy="give certificates between -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----",
        ) from None


def _plain(cause: BaseException | None) -> str:
    """An error of the network in a few words."""
    if isinstance(cause, TimeoutError):
        return "timed out"
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
        return "the connection was closed"
    if isinstance(cause, http.client.IncompleteRead):
        return "the answer ended early"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return type(cause).__name__


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
