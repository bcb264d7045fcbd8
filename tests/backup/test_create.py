"""What a backup copies, keeps and refuses."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.adapters.postgres import exclusive
from mlflow_platform.adapters.trees import FileTree, Stat
from mlflow_platform.backup import manifest
from mlflow_platform.backup.create import create
from mlflow_platform.backup.index import entries
from mlflow_platform.backup.prune import Keep
from mlflow_platform.backup.restore import restore
from mlflow_platform.backup.sealing import Key
from mlflow_platform.backup.vault import Vault
from mlflow_platform.backup.verify import verify
from mlflow_platform.errors import BadInput, Blocked, Fatal
from tests.backup.conftest import World, contents
from tests.backup.databases import run


class Meddled(FileTree):
    """A folder in which something happens to an object just before it is read."""

    def __init__(self, folder: Path, key: str, meddle: Callable[[Path], object], times: int = 1) -> None:
        super().__init__(str(folder))
        self.key, self.meddle, self.left = key, meddle, times
        self.reads = 0

    @contextlib.contextmanager
    def reading(self, key: str, version: str = "") -> Iterator[tuple[Stat, Any]]:
        self.reads += 1
        if key == self.key and self.left:
            self.left -= 1
            self.meddle(self._path(key))
        with super().reading(key, version) as found:
            yield found


def with_root(world: World, tree: FileTree) -> Any:
    return replace(world.platform, proxied=tree)


def untouched(path: Path) -> None:
    """Only count."""


def later(seconds: int) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)


def names_of(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Let a backup be made at another time: their names have seconds."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:  # noqa: ARG003 - datetime's signature
            return later(seconds)

    monkeypatch.setattr("mlflow_platform.backup.create.datetime", Clock)


def test_only_what_is_new_or_changed_is_copied(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = create(world.platform, world.vault)
    assert first.copied == first.objects == 8
    changed = world.folder / "proxied" / world.rows.proxied[0]
    changed.write_bytes(b"other content of" + changed.read_bytes())
    (world.folder / "direct" / "new").write_bytes(b"new")
    names_of(monkeypatch, 5)
    tree = Meddled(world.folder / "proxied", "", untouched)
    second = create(with_root(world, tree), world.vault)
    assert (second.copied, second.objects, tree.reads) == (2, 9, 1)
    assert not verify(world.vault, second.name).failed
    assert not verify(world.vault, first.name).failed
    names_of(monkeypatch, 10)
    tree = Meddled(world.folder / "proxied", "", untouched)
    third = create(with_root(world, tree), world.vault, full=True)
    assert (third.objects, tree.reads) == (9, 3)


def test_a_file_whose_name_is_no_utf_8_comes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.folder / "direct" / os.fsdecode(b"caf\xe9 100%\n.bin")).write_bytes(b"of an old machine")
    create(world.platform, world.vault)
    names_of(monkeypatch, 5)
    made = create(world.platform, world.vault)
    assert made.copied == 0
    target = world.target()
    restore(target, world.vault, made.name)
    assert contents(target.folder) == world.objects


def test_the_same_content_is_kept_once(world: World) -> None:
    for n in range(5):
        (world.folder / "direct" / f"same-{n}").write_bytes(b"x" * 1000)
    made = create(world.platform, world.vault)
    assert made.objects == 13
    found = list(world.vault.tree.listed("objects/"))
    assert len(found) == 9
    assert {Path(s.key).name for s in found} >= {hashlib.sha256(b"x" * 1000).hexdigest()}


def test_an_object_that_is_written_while_it_is_read_is_read_again(world: World) -> None:
    key = world.rows.proxied[0]
    tree = Meddled(world.folder / "proxied", key, lambda path: path.write_bytes(b"newer"))
    made = create(with_root(world, tree), world.vault)
    digest = {e.stat.key: e.sha256 for e in entries(world.vault, made.roots[0])}[key]
    assert digest == hashlib.sha256(b"newer").hexdigest()


def test_a_large_object_is_copied_in_blocks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_platform.backup.copying.SMALL", 1000)
    (world.folder / "direct" / "large").write_bytes(b"0123456789" * 1000)
    made = create(world.platform, world.vault)
    assert not verify(world.vault, made.name).failed
    assert made.size > 10_000


def test_a_vanished_object_is_fatal_unless_its_row_is_gone_too(world: World) -> None:
    gone = world.rows.runs[0]
    key = next(k for k in world.rows.proxied if gone in k)
    tree = Meddled(world.folder / "proxied", key, Path.unlink)
    with pytest.raises(Fatal, match=f"{key} vanished while it was copied, and {gone} is still there"):
        create(with_root(world, tree), world.vault)
    assert world.vault.finished() == []
    (world.folder / "proxied" / key).write_bytes(b"again")

    def purge(path: Path) -> None:
        for table in ("params", "metrics", "runs"):
            run(world.platform.tracking, f"delete from {table} where run_uuid = '{gone}'")
        path.unlink()

    made = create(with_root(world, Meddled(world.folder / "proxied", key, purge)), world.vault)
    assert made.objects == 7


def test_markers_and_dumps_are_no_artifacts(world: World) -> None:
    for name in (".mlplatform-installation", "mlplatform/dumps/x/manifest.json"):
        path = world.folder / "proxied" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert create(world.platform, world.vault).objects == 8


def test_it_waits_for_retention_and_migration(world: World) -> None:
    with exclusive(world.platform.tracking), pytest.raises(Blocked, match="another retention run is at work"):
        create(world.platform, world.vault, patience=0.1)
    asked = threading.Event()
    with exclusive(world.platform.tracking):
        waiting = threading.Thread(
            target=create, args=(world.platform, world.vault), kwargs={"say": lambda _: asked.set()}
        )
        waiting.start()
        assert asked.wait(60)
        assert world.vault.finished() == []
    waiting.join()
    assert len(world.vault.finished()) == 1


def test_a_place_is_for_one_database_and_not_within_the_artifacts(world: World) -> None:
    create(world.platform, world.vault)
    another = world.target().platform
    with pytest.raises(BadInput, match="holds the backups of another database"):
        create(another, world.vault)
    inside = Vault(FileTree(str(world.folder / "proxied" / "backups"), create=True))
    with pytest.raises(BadInput, match="lie within each other"):
        create(world.platform, inside)
    with pytest.raises(BadInput, match="holds no MLflow"):
        create(replace(world.platform, tracking=world.server.database()), inside_of(world))


def inside_of(world: World) -> Vault:
    return Vault(FileTree(str(world.folder.parent / "elsewhere"), create=True))


@pytest.mark.parametrize("sealed", [False, True])
def test_what_no_backup_needs_goes(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    world = make_world(key=Key(b"k" * 32) if sealed else None)
    path = world.folder / "direct" / "changing"
    made = []
    for n in range(3):
        path.write_bytes(b"%d" % n * 100)
        names_of(monkeypatch, n * 5)
        # An earlier one that was killed leaves files without a manifest.
        with world.vault.writing(f"backups/2020-killed-{n}/tracking/tables/runs.copy.gz") as out:
            out.write(b"half")
        made.append(create(world.platform, world.vault, keep=Keep(last=2)))
    assert world.vault.finished() == [made[1].name, made[2].name]
    assert len(list(world.vault.tree.listed(world.vault.contents))) == 10
    assert not any("killed" in s.key for s in world.vault.tree.listed("backups/"))
    for one in made[1:]:
        assert not verify(world.vault, one.name).failed


def test_keep_by_number_and_by_age() -> None:
    now = datetime.datetime(2027, 1, 31, tzinfo=datetime.UTC)
    made = [(f"b{age}", now - datetime.timedelta(days=age)) for age in (40, 20, 3, 1)]
    assert Keep(last=2).kept(made, now) == {"b3", "b1"}
    assert Keep(age=datetime.timedelta(days=30)).kept(made, now) == {"b20", "b3", "b1"}
    assert Keep(last=1, age=datetime.timedelta(days=2)).kept(made, now) == {"b1"}
    assert Keep(age=datetime.timedelta(hours=1)).kept(made, now) == {"b1"}


def test_an_encrypted_backup_shows_nothing_without_its_key(make_world: Callable[..., World]) -> None:
    world = make_world(key=Key(b"k" * 32))
    made = create(world.platform, world.vault)
    assert not verify(world.vault, made.name).failed
    stored = contents(Path(world.vault.tree.uri.removeprefix("file://")))
    for run_ in world.rows.runs:
        assert not any(run_.encode() in data for data in stored.values())
    digests = {hashlib.sha256(data).hexdigest() for data in world.objects.values()}
    assert not digests & {path.name for path in stored}
    without = replace(world.vault, key=None)
    with pytest.raises(BadInput, match="the backup is encrypted"):
        manifest.read(without, made.name)
    with pytest.raises(Fatal, match="another key, or is damaged"):
        manifest.read(replace(world.vault, key=Key(b"l" * 32)), made.name)
