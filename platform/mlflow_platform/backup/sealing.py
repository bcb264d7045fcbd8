"""Streams encrypted with a key: AES-256-GCM in chunks, so that each is authenticated before it is used.

A stream is a head (magic, 32 random bytes), then chunks of `CHUNK` bytes of text, each with its 16 bytes of
tag. The random bytes and the key make the stream's own key (HKDF-SHA256), so that the chunk's number can be
the nonce; the last chunk, and no other, has a 1 in the nonce's last byte. Chunks that were exchanged, left
out or cut off do not open, nor does a stream under another name: that is authenticated with each chunk.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_platform.errors import BadInput, Fatal
from mlflow_platform.server.dump import Sink, Source

MAGIC = b"mlplatform sealed 1\n"
#: Bytes of text in a chunk.
CHUNK = 1024 * 1024
_TAG = 16
_SALT = 32


@dataclass(frozen=True, slots=True)
class Key:
    """256 bits; `repr` shows none of them."""

    secret: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str, where: str) -> Key:
        """From 64 hexadecimal digits, or 32 bytes in base64. `BadInput` never shows the text."""
        text = text.strip()
        with contextlib.suppress(ValueError, binascii.Error):
            secret = bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text, validate=True)
            if len(secret) == 32:
                return cls(secret)
        raise BadInput(f"{where} holds no key of 256 bits", remedy="make one with: openssl rand -hex 32")

    @classmethod
    def read(cls, path: Path) -> Key:
        """From a file."""
        try:
            return cls.parse(path.read_text("ascii"), str(path))
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror}", remedy="name the file of the key") from error
        except UnicodeDecodeError:
            raise BadInput(f"{path} holds no key", remedy="make one with: openssl rand -hex 32") from None

    def name(self, digest: str) -> str:
        """What content of this digest is called: who has no key learns not even whether content is known."""
        return hmac.new(self._derived(b"names", b""), digest.encode(), hashlib.sha256).hexdigest()

    def cipher(self, salt: bytes) -> Any:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self._derived(b"stream", salt))

    def _derived(self, purpose: bytes, salt: bytes) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(SHA256(), 32, salt, b"mlplatform backup " + purpose).derive(self.secret)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


class Sealing:
    """A sink that encrypts into another one; `finish` writes the last chunk."""

    def __init__(self, out: Sink, key: Key, name: str) -> None:
        self._out, self._name = out, name.encode()
        salt = os.urandom(_SALT)
        self._cipher = key.cipher(salt)
        self._number = 0
        self._pending = bytearray()
        out.write(MAGIC + salt)

    def write(self, data: bytes, /) -> int:
        self._pending += data
        while len(self._pending) > CHUNK:  # the last chunk may be a full one
            self._put(bytes(self._pending[:CHUNK]), last=False)
            del self._pending[:CHUNK]
        return len(data)

    def finish(self) -> None:
        self._put(bytes(self._pending), last=True)

    def _put(self, chunk: bytes, *, last: bool) -> None:
        self._out.write(self._cipher.encrypt(_nonce(self._number, last=last), chunk, self._name))
        self._number += 1


class Opening:
    """A source that decrypts another one; `Fatal` where that is not what was sealed under this name."""

    def __init__(self, source: Source, key: Key, name: str) -> None:
        self._source, self._name = source, name
        head = _exactly(source, len(MAGIC) + _SALT)
        if not head.startswith(MAGIC):
            raise BadInput(f"{name} is not encrypted, or damaged", remedy="leave the key away")
        self._cipher = key.cipher(head[len(MAGIC) :])
        self._number = 0
        self._ahead = _exactly(source, CHUNK + _TAG)
        self._done = False
        self._text = b""

    def read(self, size: int = -1, /) -> bytes:
        parts, left = [], size
        while left and (self._text or self._next()):
            part = self._text if left < 0 else self._text[:left]
            self._text = self._text[len(part) :]
            parts.append(part)
            left -= len(part) if left > 0 else 0
        return b"".join(parts)

    def _next(self) -> bool:
        """Decrypt chunks up to one with text in it; False at the end."""
        from cryptography.exceptions import InvalidTag

        while not self._done and not self._text:
            chunk, self._ahead = self._ahead, b""
            if len(chunk) == CHUNK + _TAG:
                self._ahead = _exactly(self._source, CHUNK + _TAG)
            self._done = not self._ahead
            try:
                nonce = _nonce(self._number, last=self._done)
                self._text = self._cipher.decrypt(nonce, chunk, self._name.encode())
            except (InvalidTag, ValueError) as error:
                what = (
                    "it was sealed with another key, or is damaged" if not self._number else "it is damaged"
                )
                raise Fatal(f"{self._name} does not open: {what}", remedy="check the key") from error
            self._number += 1
        return bool(self._text)


def _exactly(source: Source, size: int) -> bytes:
    """Up to so many bytes: fewer only at the end."""
    parts, left = [], size
    while left and (part := source.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


@contextlib.contextmanager
def sealing(out: Sink, key: Key, name: str) -> Iterator[Sealing]:
    """A sink whose last chunk is written when the block ends without an error."""
    sealed = Sealing(out, key, name)
    yield sealed
    sealed.finish()
