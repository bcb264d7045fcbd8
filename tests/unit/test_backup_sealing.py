"""Encrypted streams: what was sealed opens, and nothing else does."""

from __future__ import annotations

import base64
import io
import secrets
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_platform.backup import sealing
from mlflow_platform.backup.sealing import CHUNK, MAGIC, Key, Opening
from mlflow_platform.errors import BadInput, Fatal

KEY = Key(bytes(range(32)))
_HEAD = len(MAGIC) + 32


def sealed(*parts: bytes, key: Key = KEY, name: str = "a") -> bytes:
    out = io.BytesIO()
    with sealing.sealing(out, key, name) as sink:
        for part in parts:
            sink.write(part)
    return out.getvalue()


def opened(data: bytes, *, key: Key = KEY, name: str = "a", size: int = 1000) -> bytes:
    source = Opening(io.BytesIO(data), key, name)
    parts = []
    while part := source.read(size):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7])
def test_what_was_sealed_opens(length: int) -> None:
    text = secrets.token_bytes(length)
    data = sealed(text)
    assert opened(data, size=CHUNK // 3) == text
    assert Opening(io.BytesIO(data), KEY, "a").read() == text
    assert len(data) == _HEAD + length + 16 * max(1, -(-length // CHUNK))


@settings(deadline=None)
@given(parts=st.lists(st.binary(max_size=50), max_size=8), size=st.integers(1, 100))
def test_blocks_do_not_matter(parts: list[bytes], size: int) -> None:
    assert opened(sealed(*parts), size=size) == b"".join(parts)


@settings(deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_one_changed_bit_anywhere_is_noticed(at: int, bit: int) -> None:
    data = bytearray(sealed(b"some text that is not long"))
    data[at % len(data)] ^= 1 << bit
    with pytest.raises((Fatal, BadInput)):
        opened(bytes(data))


def test_chunks_stay_in_their_order_and_their_number() -> None:
    data = sealed(secrets.token_bytes(3 * CHUNK))
    head, rest = data[:_HEAD], data[_HEAD:]
    one, two, three = (rest[i * (CHUNK + 16) : (i + 1) * (CHUNK + 16)] for i in range(3))
    for wrong in (
        [two, one, three],  # exchanged
        [one, three],  # left out
        [one, two],  # cut off behind a chunk
        [one, two, three[:-1]],  # cut off within one
        [one, two, two, three],  # doubled
        [one, two, three, three],  # more
        [],
    ):
        with pytest.raises(Fatal, match="does not open"):
            opened(head + b"".join(wrong), size=CHUNK)


def test_another_key_or_name_does_not_open() -> None:
    data = sealed(b"text")
    with pytest.raises(Fatal, match="another key"):
        opened(data, key=Key(bytes(32)))
    with pytest.raises(Fatal, match="b does not open"):
        opened(data, name="b")
    with pytest.raises(BadInput, match="is not encrypted"):
        opened(b"plain text that is as long as it needs to be for that" * 2)


def test_the_same_text_is_never_the_same_twice() -> None:
    assert sealed(b"text") != sealed(b"text")
    assert KEY.name("digest") == KEY.name("digest") != Key(bytes(32)).name("digest")


def test_a_key_is_read_and_never_shown(tmp_path: Path) -> None:
    secret = secrets.token_bytes(32)
    for text in (secret.hex(), secret.hex().upper() + "\n", base64.b64encode(secret).decode() + "\n"):
        (tmp_path / "key").write_text(text)
        assert Key.read(tmp_path / "key").secret == secret
    assert secret.hex() not in repr(Key(secret))
    for text in ("", "hunter2hunter2", "f" * 63, "ä" * 64, base64.b64encode(secret[:31]).decode()):
        (tmp_path / "key").write_text(text)
        with pytest.raises(BadInput, match="openssl rand") as error:
            Key.read(tmp_path / "key")
        assert text == "" or text not in str(error.value)
    with pytest.raises(BadInput, match="No such file"):
        Key.read(tmp_path / "none")
