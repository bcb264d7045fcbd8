"""Backups are proved by reading and by restoring them, and a damaged one does not pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_platform.adapters.s3 import S3Login
from mlflow_platform.adapters.trees import Tree, tree
from mlflow_platform.backup.create import create
from mlflow_platform.backup.drill import Drilled, drill, resolve
from mlflow_platform.backup.index import entries
from mlflow_platform.backup.manifest import Manifest, Root
from mlflow_platform.backup.sealing import Key
from mlflow_platform.backup.verify import verify
from mlflow_platform.errors import Fatal
from tests.backup.conftest import World, contents
from tests.backup.databases import digests


def unreachable(uri: str) -> Tree:
    raise Fatal(f"{uri}: AccessDenied")


def drilled(world: World, made: Manifest, reach: Callable[[str], Tree] = unreachable) -> Drilled:
    return drill(world.vault, made.name, world.server.database(), world.server.database(), reach=reach)


def stored(world: World, name: str) -> Path:
    return Path(world.vault.tree.uri.removeprefix("file://")) / name


def content_of(world: World, made: Manifest, key: str) -> Path:
    """Where the backup keeps an object."""
    (entry,) = (e for root in made.roots for e in entries(world.vault, root) if e.stat.key == key)
    return stored(world, world.vault.content(entry.sha256))


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("sealed", [pytest.param(False, marks=pytest.mark.soak), True])
def test_a_whole_backup_passes_and_is_not_touched(make_world: Callable[..., World], sealed: bool) -> None:
    world = make_world(key=Key(b"k" * 32) if sealed else None)
    made = create(world.platform, world.vault)
    before = contents(stored(world, ""))
    tracking, auth = world.server.database(), world.server.database()
    report = drill(world.vault, made.name, tracking, auth, reach=unreachable)
    assert report.passed, (report.problems, report.read.problems)
    # 6 runs, a logged model, a trace and a version name artifacts, and each is there.
    assert (report.named, report.bare, report.outside, report.rows) == (9, 0, 0, made.rows)
    assert (report.read.objects, report.read.contents) == (8, 8)
    assert len(report.noticed) == 3
    assert not report.notes
    assert {"sabotage", "databases", "rows", "objects"} == set(report.seconds)
    assert contents(stored(world, "")) == before
    restored = digests(tracking)
    assert all(restored[table] == found for table, found in digests(world.platform.tracking).items())


def test_a_damaged_or_lost_object_fails(make_world: Callable[..., World]) -> None:
    world = make_world(key=Key(b"k" * 32))
    made = create(world.platform, world.vault)
    one, two = world.rows.proxied[:2]
    damage(content_of(world, made, one))
    content_of(world, made, two).unlink()
    report = verify(world.vault, made.name)
    assert report.failed == 2
    assert any(one in p for p in report.problems)
    assert any(f"{two} is lost" in p for p in report.problems)
    found = drilled(world, made)
    assert not found.passed
    assert found.read.failed == 2
    # A sample of nothing still sees what is not there.
    assert verify(world.vault, made.name, share=0).failed == 1
    # The next backup copies again what is lost; a full one mends what is damaged, too.
    time.sleep(1.1)  # names of backups have seconds
    assert create(world.platform, world.vault).copied == 1
    assert verify(world.vault, made.name).failed == 1
    time.sleep(1.1)
    full = create(world.platform, world.vault, full=True)
    assert not verify(world.vault, full.name).failed
    assert not verify(world.vault, made.name).failed


def test_a_damaged_table_fails(world: World) -> None:
    made = create(world.platform, world.vault)
    damage(stored(world, f"backups/{made.name}/tracking/tables/params.copy.gz"))
    assert verify(world.vault, made.name).failed == 1
    report = drilled(world, made)
    assert not report.passed
    assert any("params" in p for p in report.problems)


def test_a_drill_that_can_read_the_source_says_so(world: World) -> None:
    made = create(world.platform, world.vault)
    report = drilled(world, made, lambda uri: tree(uri, S3Login()))
    assert report.passed
    assert len([n for n in report.notes if "can read the source" in n]) == 2


def test_a_version_without_its_artifact_is_told(world: World) -> None:
    key = f"2/models/{world.rows.model}/artifacts/MLmodel"
    (world.folder / "direct" / key).unlink()
    report = drilled(world, create(world.platform, world.vault))
    assert (report.named, report.bare) == (7, 2)
    assert ["r/1" in note for note in report.notes] == [True]


def test_addresses_are_resolved_as_mlflow_means_them() -> None:
    proxied, direct, inner = (
        Root(uri, uri == "s3://p", "", 0, 0, "") for uri in ("s3://p", "file:///d", "file:///d/e")
    )
    roots = [proxied, direct, inner]
    expected = {
        "mlflow-artifacts:/1/r/artifacts": (proxied, "1/r/artifacts"),
        "mlflow-artifacts://h:1/api/2.0/mlflow-artifacts/artifacts/1/r": (proxied, "1/r"),
        "s3://p/1/r/": (proxied, "1/r"),
        "s3://pp/1": None,
        "/d/1/a": (direct, "1/a"),
        "file:///d/e/1": (inner, "1"),
        "file:/d/1": (direct, "1"),
    }
    assert {uri: resolve(uri, roots) for uri in expected} == expected
