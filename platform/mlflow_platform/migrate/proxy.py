"""Artifacts behind another server's proxy, read through it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

from mlflow_platform.adapters.transfers import repeated
from mlflow_platform.errors import BadInput, Rejected, Transient
from mlflow_platform.server.dump import Source

#: mlflow/server/handlers.py: where it serves artifacts.
_PATH = "api/2.0/mlflow-artifacts/artifacts"


class Proxy:
    """A server's artifacts, below the root of its --artifacts-destination."""

    def __init__(
        self, address: str, user: str | None, password: str | None, *, ca: str | None = None, workers: int = 8
    ) -> None:
        """`ca`: a file with the authority behind the server's certificate. Default: the system's."""
        import urllib3

        self._address = address
        self.uri = f"{address}/{_PATH}"
        self._headers = urllib3.make_headers(basic_auth=f"{user}:{password or ''}") if user else {}
        self._http = urllib3.PoolManager(
            maxsize=workers,
            timeout=urllib3.Timeout(connect=5.0, read=60.0),
            retries=False,
            ca_certs=ca,
        )

    def probe(self) -> None:
        """Raises `Transient` where nobody answers, `BadInput` where it is not known who does, or where we
        are sent elsewhere: a login is for the host that was named, and a redirected POST is none any more."""
        import urllib3

        try:
            answer = self._http.request("GET", f"{self._address}/health")
        except urllib3.exceptions.SSLError as error:
            raise BadInput(
                f"{self._address} has a certificate that is not trusted here",
                remedy="name the file of its authority by MLFLOW_TRACKING_SERVER_CERT_PATH",
            ) from error
        except urllib3.exceptions.HTTPError as error:
            raise Transient(
                f"{self._address} cannot be reached: {type(error).__name__}",
                remedy="check the address, and that the server runs; then run it again",
            ) from error
        if 300 <= answer.status < 400:
            to = answer.headers.get("Location", "elsewhere").partition("?")[0].removesuffix("/health")
            raise BadInput(
                f"{self._address} redirects to {to}", remedy="give the address that it redirects to"
            )

    def files(self, prefix: str) -> Iterator[tuple[str, int]]:
        folders = [prefix.rstrip("/")]
        while folders:
            folder = folders.pop()
            for one in repeated(partial(self._list, folder)):
                path = f"{folder}/{one['path']}"
                if one.get("is_dir"):
                    folders.append(path)
                else:
                    yield path, int(one.get("file_size") or 0)

    def _list(self, folder: str) -> list[dict[str, Any]]:
        answer = self._get(f"{self.uri}?path={quote(folder, safe='')}")
        try:
            if answer.status == 404:
                return []
            body = answer.read()
            self._refuse(answer, folder)
            found: list[dict[str, Any]] = json.loads(body).get("files") or []
            return found
        finally:
            answer.release_conn()

    @contextmanager
    def reading(self, key: str) -> Iterator[Source]:
        answer = self._get(f"{self.uri}/{quote(key)}")
        try:
            if answer.status == 404:
                raise Rejected(f"{self.uri}/{key} is not there", code="NoSuchKey")
            self._refuse(answer, key)
            yield _Body(answer, key)
        finally:
            answer.close()
            answer.release_conn()

    def _get(self, address: str) -> Any:
        import urllib3

        try:
            return self._http.request("GET", address, headers=self._headers, preload_content=False)
        except urllib3.exceptions.HTTPError as error:
            raise Transient(f"{self.uri} cannot be reached: {type(error).__name__}") from error

    def _refuse(self, answer: Any, what: str) -> None:
        if answer.status == 200:
            return
        if answer.status in (429, 500, 502, 503, 504):
            raise Transient(f"{self.uri} answered {answer.status} to {what}")
        raise Rejected(f"{self.uri} answered {answer.status}")

    def close(self) -> None:
        self._http.clear()


class _Body:
    """An answer's content; what ends too early is no end."""

    def __init__(self, answer: Any, key: str) -> None:
        self._answer, self._key = answer, key

    def read(self, size: int = -1, /) -> bytes:
        import urllib3

        try:
            found: bytes = self._answer.read(None if size < 0 else size)
        except urllib3.exceptions.HTTPError as error:
            raise Transient(f"{self._key} was cut off: {type(error).__name__}") from error
        return found
