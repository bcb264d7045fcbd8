"""Files of archives: rows there and back, digests, keys that are no file names."""

from __future__ import annotations

import dataclasses
import io
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_platform.adapters.files import FileStore
from mlflow_platform.adapters.object_store import Page
from mlflow_platform.archive import manifest, parquet
from mlflow_platform.archive.copying import Digest, copy, fetched, send
from mlflow_platform.archive.manifest import Corrupted, File, Manifest
from mlflow_platform.archive.places import Whose, file_of
from mlflow_platform.errors import BadInput

COLUMNS = {"text": "string", "large": "int64", "small": "int32", "value": "double", "yes": "bool"}
ROWS = st.tuples(
    st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.integers(-(2**31), 2**31 - 1),
    st.none() | st.floats(),
    st.none() | st.booleans(),
)
EMPTY = Manifest("20260102T030405123456Z-0a1b2c3d", "", "r", "m", None, None, [], {}, 0, 0)


def bits(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """NaN is no equal of itself, and 0.0 one of -0.0."""
    return tuple(struct.pack("d", value) if isinstance(value, float) else value for value in row)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(rows=st.lists(ROWS, max_size=60), step=st.integers(1, 20))
def test_rows_come_back_as_they_were(
    rows: list[tuple[Any, ...]], step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 7)
    monkeypatch.setattr(parquet, "_FILE_BYTES", 2000)
    found: list[tuple[Any, ...]] = []
    numbers: list[int] = []

    def done(path: Path, count: int, number: int) -> None:
        here = [row for batch in parquet.read(path, "x", COLUMNS) for row in batch]
        assert len(here) == count
        numbers.append(number)
        found.extend(here)

    with parquet.TableFiles(COLUMNS, tmp_path, done) as files:
        for start in range(0, len(rows), step):
            files.write(rows[start : start + step])
    assert [bits(row) for row in found] == [bits(row) for row in rows]
    assert numbers == list(range(max(1, len(numbers)))), "at least one file, even of no rows"
    assert list(tmp_path.glob("*.parquet")) == []


def test_a_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    def done(path: Path, _rows: int, _number: int) -> None:
        with pytest.raises(BadInput, match="x has other columns"):
            list(parquet.read(path, "x", {**COLUMNS, "more": "string"}))
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(BadInput, match="x cannot be read"):
            list(parquet.read(path, "x", COLUMNS))

    with parquet.TableFiles(COLUMNS, tmp_path, done) as files:
        files.write([("a", 1, 1, math.nan, True)])


class Dripping(io.BytesIO):
    """A stream that gives a few bytes at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size if size is None or size < 0 else min(size, 3))


@pytest.mark.parametrize("stream", [io.BytesIO, Dripping])
@pytest.mark.parametrize("size", [1, 4, 10, 11, -1])
def test_a_digest_raises_before_the_end_is_told(stream: type[io.BytesIO], size: int) -> None:
    body = b"0123456789"

    def drain(content: Digest) -> None:
        while content.read(size):
            pass

    good = Digest(stream(body))
    drain(good)
    assert good.bytes == 10
    drain(Digest(stream(body), "it", (10, good.sha256)))
    for wrong in (b"0123456780", b"012345678", b"0123456789x", b""):
        other = Digest(stream(wrong), "it", (10, good.sha256))
        with pytest.raises(Corrupted, match="it is not what was archived"):
            drain(other)


def test_a_wrong_object_is_never_finished(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    source, target = FileStore(str(tmp_path / "a")), FileStore(str(tmp_path / "b"))
    with source.writing("x/y") as out:
        out.write(b"good")
    with pytest.raises(Corrupted, match="a/x/y is not what was archived"):
        copy(source, "x/y", target, "z", 4, (4, "0" * 64))
    assert target.page("") == Page([], None)
    assert copy(source, "nothing", target, "z", 4) is None
    done = copy(source, "x/y", target, "deep/z", 4)
    assert copy(source, "x/y", target, "deep/z", 4, done) == done
    assert [one.key for one in target.page("").found] == ["deep/z"]


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/x", "a//b", ".."])
def test_no_key_leads_out_of_a_folder(tmp_path: Path, key: str) -> None:
    (tmp_path / "store").mkdir()
    store = FileStore(str(tmp_path / "store"))
    for opened in (store.writing(key), store.reading(key)):
        with pytest.raises(BadInput, match="is no path below"), opened:
            pass


@pytest.mark.parametrize("path", ["../x", "a/../b", "a//b", "/a", "a/", ".", "a\\b", "x" * 256])
def test_a_key_that_is_no_file_name_goes_under_its_digest(path: str) -> None:
    whose = Whose("run", "r", "uri", ("run", "r"))
    found = file_of(whose, path)
    assert found.startswith("artifacts/run/r/.odd/")
    assert ".." not in found.split("/")
    assert file_of(whose, "a/b.c") == "artifacts/run/r/a/b.c"


def test_a_manifest_tells_of_changes_to_itself(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path))
    one = dataclasses.replace(EMPTY, counts={"runs": 1}, files=[File("t", "runs", 1, 2, "s")])
    manifest.write(store, one)
    assert manifest.read(store, one.id) == one
    path = tmp_path / manifest.key(one.id)
    body = path.read_text()
    for wrong in (body.replace('"runs": 1', '"runs": 2'), body[:-5], "[]", "", '{"format": 1}'):
        path.write_text(wrong)
        with pytest.raises(Corrupted, match=one.id):
            manifest.read(store, one.id)


def test_a_file_is_fetched_whole_or_not_at_all(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path))
    (tmp_path / "local").write_bytes(b"abc")
    size, digest = send(store, tmp_path / "local", f"{EMPTY.folder}t/0")
    with fetched(store, EMPTY, File("t/0", "t", 1, size, digest)) as path:
        assert path.read_bytes() == b"abc"
    with pytest.raises(Corrupted, match="t/0 is not"), fetched(store, EMPTY, File("t/0", "t", 1, 4, digest)):
        pass
    with pytest.raises(Corrupted, match="t/1 is missing"), fetched(store, EMPTY, File("t/1", "t", 1, 1, "")):
        pass
