"""Many small objects into S3 fast: signed requests, written one after another on kept connections without
waiting for the answers in between. boto3 needs more of the machine for that than the store does."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from urllib.parse import urlsplit

_CONNECTIONS, _TOGETHER = 8, 100


@dataclass(frozen=True)
class Filler:
    """Where to, and with which keys."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"
    body: bytes = b"x" * 100

    def put(self, keys: Iterable[str]) -> None:
        """An object for each of these keys, which need no escaping."""
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            # So many at once: the keys of a million objects are not all in memory.
            for some in _batched(keys, 20 * _TOGETHER * _CONNECTIONS):
                for _ in pool.map(self._put, [some[i::_CONNECTIONS] for i in range(_CONNECTIONS)]):
                    pass

    def _put(self, keys: tuple[str, ...]) -> None:
        address = urlsplit(self.endpoint)
        moment = datetime.datetime.now(datetime.UTC)
        with socket.create_connection((address.hostname or "", address.port or 80)) as connection:
            for some in _batched(keys, _TOGETHER):
                connection.sendall(b"".join(self._request(key, address.netloc, moment) for key in some))
                answers = b""
                while answers.count(b"\r\n\r\n") < len(some):
                    part = connection.recv(1 << 16)
                    if not part:
                        break
                    answers += part
                if answers.count(b"HTTP/1.1 200") != len(some):
                    raise OSError(f"the store refused an object: {answers[:500]!r}")

    def _request(self, key: str, host: str, moment: datetime.datetime) -> bytes:
        """A signed PUT (AWS Signature Version 4, `Authorization` header)."""
        at, day = f"{moment:%Y%m%dT%H%M%SZ}", f"{moment:%Y%m%d}"
        path, digest = f"/{self.bucket}/{key}", hashlib.sha256(self.body).hexdigest()
        names = "host;x-amz-content-sha256;x-amz-date"
        canonical = (
            f"PUT\n{path}\n\nhost:{host}\nx-amz-content-sha256:{digest}\nx-amz-date:{at}\n\n{names}\n{digest}"
        )
        scope = f"{day}/{self.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        secret = f"AWS4{self.secret_key}".encode()
        for part in (day, self.region, "s3", "aws4_request"):
            secret = hmac.digest(secret, part.encode(), "sha256")
        signature = hmac.digest(secret, text.encode(), "sha256").hex()
        return (
            f"PUT {path} HTTP/1.1\r\nHost: {host}\r\nx-amz-content-sha256: {digest}\r\nx-amz-date: {at}\r\n"
            f"Authorization: AWS4-HMAC-SHA256 Credential={self.access_key}/{scope},"
            f"SignedHeaders={names},Signature={signature}\r\nContent-Length: {len(self.body)}\r\n\r\n"
        ).encode() + self.body


def _batched(keys: Iterable[str], count: int) -> Iterator[tuple[str, ...]]:
    left = iter(keys)
    while some := tuple(islice(left, count)):
        yield some
