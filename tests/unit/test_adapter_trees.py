"""Folders as trees of objects, and what an S3 tree says that nobody answers."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest

from mlflow_platform.adapters.s3 import S3Login, S3Tree
from mlflow_platform.adapters.trees import FileTree, tree
from mlflow_platform.errors import BadInput, Fatal, PlatformError, Rejected, Transient


@pytest.fixture
def folder(tmp_path: Path) -> FileTree:
    return FileTree(str(tmp_path / "tree"), create=True)


def put(where: FileTree, key: str, data: bytes) -> None:
    with where.writing(key) as out:
        out.write(data)


def break_off(where: FileTree, key: str) -> None:
    with where.writing(key) as out:
        out.write(b"half")
        raise RuntimeError


def get(where: FileTree, key: str) -> bytes:
    with where.reading(key) as (_, source):
        return source.read()


def test_objects_are_written_whole_or_not_at_all(folder: FileTree) -> None:
    put(folder, "a/b", b"1")
    for key in ("a/c", "a/b"):
        with pytest.raises(RuntimeError):
            break_off(folder, key)
    assert [s.key for s in folder.listed()] == ["a/b"]
    assert get(folder, "a/b") == b"1"
    put(folder, "a/b", b"23")
    assert [(s.key, s.size) for s in folder.listed("a/")] == [("a/b", 2)]
    with pytest.raises(Rejected) as error:
        get(folder, "a/c")
    assert error.value.code == "NoSuchKey"


@pytest.mark.parametrize("to", ["folder", "folder/file", "nowhere"])
def test_a_link_is_refused(folder: FileTree, tmp_path: Path, to: str) -> None:
    """As an object that nobody may read, not as a disk that fails; wherever it leads."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("somebody else's")
    (tmp_path / "tree" / "link").symlink_to(tmp_path / to)
    with pytest.raises(Rejected, match="link is a link, and none is followed") as error:
        get(folder, "link")
    assert error.value.code == "Unreadable"


def test_what_a_killed_writer_left_is_not_shown_and_goes(folder: FileTree, tmp_path: Path) -> None:
    put(folder, "a/b", b"1")
    with folder.writing("a/c") as out:
        out.write(b"half")
        (left,) = (p for p in tmp_path.rglob("*") if p.is_file() and p.name != "b")
        (left.parent / "killed").write_bytes(b"half")
        assert [s.key for s in folder.listed()] == ["a/b"]
    assert [s.key for s in folder.listed()] == ["a/b", "a/c"]
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    assert folder.clean(long_ago) == 0, "somebody may still be writing it"
    assert folder.clean() == 1
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["b", "c"]


def test_a_changed_object_is_not_the_same(folder: FileTree) -> None:
    put(folder, "a", b"1")
    (before,) = folder.listed()
    assert before.same(next(iter(folder.listed())))
    put(folder, "a", b"2")
    assert not before.same(next(iter(folder.listed())))


def test_empty_folders_go_with_their_objects_and_links_are_not_followed(
    folder: FileTree, tmp_path: Path
) -> None:
    for key in ("a/b/c", "a/d"):
        put(folder, key, b"1")
    folder.delete(["a/b/c", "a/gone"])
    assert not (tmp_path / "tree" / "a" / "b").exists()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("x")
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "outside")
    assert [s.key for s in folder.listed()] == ["a/d"]


@pytest.mark.parametrize("key", ["../a", "/a", "a//b", "a/../../b", "a/", ".."])
def test_no_key_leads_outside(folder: FileTree, key: str) -> None:
    with pytest.raises(BadInput, match="is no path below"):
        put(folder, key, b"1")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    for uri in ("relative", "/", str(tmp_path / "none")):
        with pytest.raises(BadInput):
            FileTree(uri)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput):
        FileTree(str(tmp_path / "file" / "x"), create=True)


def test_a_listing_that_fails_is_no_empty_folder(folder: FileTree, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "a/b", b"1")

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(Fatal, match="Permission denied"):
        list(folder.listed())


def test_a_store_that_does_not_answer_is_told_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = S3Login("http://127.0.0.1:9", "us-east-1", "a", "b")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    with pytest.raises(Transient, match=r"s3://b: Could not connect"):
        list(S3Tree("s3://b", nobody).listed())
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PlatformError, match="no login for the object store"):
        list(tree("s3://b", S3Login("http://127.0.0.1:9")).listed())
    with pytest.raises(BadInput, match="Partial credentials"):
        S3Tree("s3://b", S3Login("http://127.0.0.1:9", "us-east-1", "a"))
    with pytest.raises(BadInput, match="is no place in S3"):
        S3Tree("s3:///b", nobody)
