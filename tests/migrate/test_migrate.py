"""Everything of a source is here afterwards, by API and by digest; nothing else has changed."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mlflow_platform.adapters.s3 import S3Login
from mlflow_platform.cli.stores import open_store
from mlflow_platform.migrate.homes import Wishes
from mlflow_platform.migrate.move import move
from mlflow_platform.migrate.places import Places, parse_moves
from mlflow_platform.migrate.report import Moved
from mlflow_platform.migrate.sources import open_source
from tests.migrate.conftest import Said, Source, Target


def migrate(target: Target, source: str, work: Path, *artifacts: str, **more: Any) -> Moved:
    """As the command does it."""
    wishes = Wishes(more.pop("prefix", ""), more.pop("workspace", None))
    work.mkdir(exist_ok=True)
    staged = open_source(source, work, password=more.pop("password", None))
    moves = {**staged.moved, **parse_moves(artifacts)}
    places = Places(lambda uri: open_store(uri, S3Login()), moves, staged.base, staged.proxied)
    try:
        return move(target.platform, staged, places, wishes, **more)
    finally:
        places.close()
        for file in work.iterdir():
            file.unlink()


def compared(target: Target, source: Source, work: Path, *artifacts: str, **more: Any) -> Moved:
    """Move, and look: what is here is what was there, and a second time changes nothing."""
    before = Said(MlflowClient(source.uri, source.uri), source.prefix)
    assert len(before.found) > 10
    counts = target.counts()
    dry = migrate(target, source.address, work, *artifacts, dry=True, **more)
    assert target.counts() == counts
    moved = migrate(target, source.address, work, *artifacts, **more)
    assert (dry.rows, dry.objects, dry.bytes) == (moved.rows, moved.objects, moved.bytes)
    after = Said(target.client, source.prefix)
    assert set(after.found) == set(before.found)
    for name, value in before.found.items():
        assert after.found[name] == value, name
    counts = target.counts()
    again = migrate(target, source.address, work, *artifacts, **more)
    assert (again.rows.total(), again.objects) == (0, 0)
    assert (again.there.total(), again.objects_there) == (moved.rows.total(), moved.objects)
    assert target.counts() == counts
    return moved


def test_a_database_of_sqlite(target: Target, sqlite: Source, tmp_path: Path) -> None:
    file = Path(sqlite.uri.removeprefix("sqlite:///"))
    content = file.read_bytes()
    moved = compared(target, sqlite, tmp_path / "work")
    assert moved.left == []
    assert file.read_bytes() == content
    later = int(target.client.create_experiment(f"{sqlite.prefix}-later"))
    assert later > max(int(here) for here in moved.experiments.values())


def test_a_database_of_an_older_mlflow(target: Target, old: Source, tmp_path: Path) -> None:
    file = Path(old.address.removeprefix("sqlite:///"))
    content = file.read_bytes()
    assert compared(target, old, tmp_path / "work").left == []
    assert file.read_bytes() == content


def test_a_file_store(
    target: Target, file_store: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    moved = compared(target, file_store, tmp_path / "work")
    assert moved.left == []
    assert all(len(old) == 18 and int(here) < 2**31 for old, here in moved.experiments.items())


def test_a_file_store_that_was_moved(target: Target, file_store: Source, tmp_path: Path, empty: Path) -> None:
    """What it says of its own place is wrong; artifacts are found in it all the same."""
    shutil.copytree(file_store.address, tmp_path / "elsewhere" / "mlruns")
    (tmp_path / "work").mkdir()
    staged = open_source(str(tmp_path / "elsewhere"), tmp_path / "work")
    assert [".trash" in place for place in staged.moved.values()] == [True], "the first place is still there"
    Path(file_store.address).rename(tmp_path / "aside")
    try:
        staged.file.unlink()
        staged = open_source(str(tmp_path / "elsewhere"), tmp_path / "work")
    finally:
        (tmp_path / "aside").rename(file_store.address)
    mlruns = tmp_path / "elsewhere" / "mlruns"
    folders = [*mlruns.glob("[0-9]*"), *mlruns.glob(".trash/[0-9]*")]
    assert sorted(staged.moved.values()) == sorted(map(str, folders))
    places = Places(lambda uri: open_store(uri, S3Login()), staged.moved, staged.base)
    with staged.connect() as connection:
        uris = [uri for (uri,) in connection.execute("select artifact_uri from runs")]
    for uri in uris:
        found = places.find(uri)
        assert isinstance(found, tuple)
        assert len(list(found[0].files(found[1]))) in (2, 3)


def test_a_server(target: Target, remote: Source, tmp_path: Path) -> None:
    assert remote.database is not None
    with sqlite3.connect(remote.database) as connection:
        before = list(connection.iterdump())
    moved = compared(target, remote, tmp_path / "work")
    assert moved.left == []
    assert "label schemas" in moved.as_json()["unseen"]
    with sqlite3.connect(remote.database) as connection:
        assert list(connection.iterdump()) == before, "the source is only read"
