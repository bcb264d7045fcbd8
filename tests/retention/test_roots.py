"""Artifact roots: what a URI means, local folders, direct S3, versioned buckets, the sweep."""

from __future__ import annotations

import datetime
import errno
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.adapters.files import FileStore
from mlflow_platform.adapters.object_store import MOST_KEYS, Found, ObjectStore, Refusal
from mlflow_platform.adapters.s3 import S3Login, S3Store
from mlflow_platform.errors import BadInput, PlatformError
from mlflow_platform.retention.engine import Engine
from mlflow_platform.retention.objects import empty, walk
from mlflow_platform.retention.roots import MARKER, Place, Roots
from tests.retention.conftest import Later, World, as_text, random_id

DELETED = {"runs": {"softDeletedFor": "0s"}}


def files(below: Path) -> set[str]:
    return {str(p.relative_to(below)) for p in below.rglob("*") if p.is_file()}


def test_places(tmp_path: Path) -> None:
    own = "0" * 32
    artifacts = FileStore(str(tmp_path))
    roots = Roots(
        artifacts, [S3Store("s3://direct/team", S3Login("http://127.0.0.1:1", "us-east-1", "a", "b"))]
    )
    here = f"file://{tmp_path}"
    for uri, expected in {
        f"mlflow-artifacts:/7/{own}/artifacts": Place(here, f"7/{own}/artifacts/"),
        f"mlflow-artifacts:/workspaces/red/7/{own}/artifacts": Place(
            here, f"workspaces/red/7/{own}/artifacts/"
        ),
        f"mlflow-artifacts://host:5000/api/2.0/mlflow-artifacts/artifacts/7/{own}/artifacts": Place(
            here, f"7/{own}/artifacts/"
        ),
        f"{tmp_path}/7/{own}/artifacts": Place(here, f"7/{own}/artifacts/"),
        f"file://{tmp_path}/7/{own}/artifacts/": Place(here, f"7/{own}/artifacts/"),
        f"s3://direct/team/x/{own}": Place("s3://direct/team", f"x/{own}/"),
    }.items():
        assert roots.place(uri, own) == expected
    for uri, reason in {
        f"s3://direct/teams/{own}": "no store is given",
        f"s3://other/{own}": "no store is given",
        f"dbfs:/x/{own}": "no store is given",
        f"{tmp_path}-other/{own}": "no store is given",
        f"mlflow-artifacts:/7/../{own}/artifacts": "no place for artifacts",
        f"mlflow-artifacts:/7//{own}/artifacts": "no place for artifacts",
        "mlflow-artifacts:/": "no place for artifacts",
        "mlflow-artifacts:/7/artifacts": "may hold more",
        f"mlflow-artifacts:/7/{own}x/artifacts": "may hold more",
    }.items():
        place = roots.place(uri, own)
        assert isinstance(place, str)
        assert reason in place
    assert isinstance(Roots(None).place(f"mlflow-artifacts:/7/{own}", own), str)


@pytest.fixture(params=["s3", "s3 versions", "files"])
def store(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> ObjectStore:
    """An empty store of each sort."""
    if request.param == "files":
        return FileStore(str(tmp_path))
    where = world.stack.endpoints()
    login = S3Login(where.s3_endpoint, "us-east-1", where.s3_access_key, where.s3_secret_key)
    versions = request.param != "s3"
    found = S3Store(f"s3://walk-{time.time_ns()}/below", login, all_versions=versions)
    found._client.create_bucket(Bucket=found._bucket)
    if versions:
        found._client.put_bucket_versioning(
            Bucket=found._bucket, VersioningConfiguration={"Status": "Enabled"}
        )
    return found


def put(store: ObjectStore, key: str, body: bytes = b"12345") -> None:
    if isinstance(store, FileStore):
        path = store._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    else:
        assert isinstance(store, S3Store)
        store._client.put_object(Bucket=store._bucket, Key=store._base + key, Body=body)


def keys(store: ObjectStore) -> list[str]:
    found: list[str] = []
    after = None
    while True:
        page = store.page("", after, 7)
        found += [one.key for one in page.found]
        after = page.after
        if after is None:
            return found


def test_only_what_lies_below_the_prefixes_goes(store: ObjectStore, world: World) -> None:
    """Many small ones side by side, a large one over several pages, empty ones, names that begin alike."""
    ids = sorted(random_id(world.sql) for _ in range(12))
    gone, stays = ids[::2], ids[1::2]
    for i in ids:
        for name in ("a", "b/c/d", "b/e"):
            put(store, f"1/{i}/artifacts/{name}")
        put(store, f"1/{i}/other")
        put(store, f"1/{i}x/artifacts/a")
    for n in range(130):
        put(store, f"1/{gone[2]}/artifacts/many/{n:03}")
    put(store, f"1/models/m-{gone[0]}/artifacts/a")
    put(store, f"10/{gone[0]}/artifacts/a")
    before = keys(store)
    missing = random_id(world.sql)
    prefixes = [f"1/{i}/artifacts/" for i in sorted([*gone, missing])] + [f"1/models/m-{gone[0]}/artifacts/"]
    pages = 0
    plain = store.page

    def counted(*arguments: object) -> object:
        nonlocal pages
        pages += 1
        return plain(*arguments)  # type: ignore[arg-type]

    store.page = counted  # type: ignore[method-assign, assignment]
    results = {one.prefix: one for one in empty(store, prefixes)}
    store.page = plain  # type: ignore[method-assign]
    assert pages <= len(prefixes)
    assert set(results) == set(prefixes)
    assert all(one.whole for one in results.values())
    assert results[f"1/{gone[2]}/artifacts/"].objects == 133
    assert results[f"1/{missing}/artifacts/"].objects == 0
    assert sum(one.bytes for one in results.values()) == 5 * (6 * 3 + 130 + 1)
    assert keys(store) == [k for k in before if not k.startswith(tuple(prefixes))]
    assert all(f"1/{i}/artifacts/a" in before for i in stays)


def test_walk_gives_each_prefix_once_as_last(store: ObjectStore) -> None:
    for i in range(3):
        for n in range(60):
            put(store, f"1/{i}/artifacts/{n:02}")
    prefixes = [f"1/{i}/artifacts/" for i in range(4)]
    seen = list(walk(store, prefixes))
    assert [prefix for prefix, _, last in seen if last] == prefixes
    assert [sum(len(o) for p, o, _ in seen if p == prefix) for prefix in prefixes] == [60, 60, 60, 0]


def test_a_versioned_bucket(world: World) -> None:
    """marker: a delete marker hides what stays; purge: every version and marker goes."""
    where = world.stack.endpoints()
    login = S3Login(where.s3_endpoint, "us-east-1", where.s3_access_key, where.s3_secret_key)
    for mode, left in (("marker", 3), ("purge", 0)):
        uri = f"s3://versioned-{time.time_ns()}"
        all_of_it = S3Store(uri, login, all_versions=True)
        all_of_it._client.create_bucket(Bucket=all_of_it._bucket)
        enabled = {"Status": "Enabled"}
        all_of_it._client.put_bucket_versioning(Bucket=all_of_it._bucket, VersioningConfiguration=enabled)
        run = world.run(objects=0)
        location = f"{uri}/{world.experiment}/{run}/artifacts"
        world.sql.execute("update runs set artifact_uri = %s where run_uuid = %s", (location, run))
        for body in (b"1", b"22"):
            put(all_of_it, f"{world.experiment}/{run}/artifacts/a", body)
        world.call("runs/delete", run_id=run)
        root = S3Store(uri, login, all_versions=mode == "purge")
        engine = Engine(world.database, Roots(world.store, [root]))
        assert not engine.run([world.policy(rules=DELETED, versions=mode)]).problems
        assert [one for one in S3Store(uri, login).page("").found if one.key != MARKER] == []
        assert len([one for one in all_of_it.page("").found if one.key != MARKER]) == left


def test_names_that_no_request_in_bulk_can_hold(world: World) -> None:
    """XML has no control characters, S3's keys may: one of these must not keep a thousand others."""
    own = world.run()
    names = {"plain", "a\x01b", "a\ufffeb", "a\rb", "a\nb", "ä & <b> %41 +"}
    for name in names:
        world.put(world.uri(own), name)
    there = world.objects(f"{own}/")
    assert {key.rpartition("/")[2] for key in there} >= names
    report = world.purge(rules={"runs": {"olderThan": "30d"}})
    assert not report.problems, as_text(report)
    assert not world.exists(own)
    assert world.objects(f"{own}/") == []


def test_a_bucket_that_is_not_there_is_told(world: World) -> None:
    where = world.stack.endpoints()
    login = S3Login(where.s3_endpoint, "us-east-1", where.s3_access_key, where.s3_secret_key)
    store = S3Store("s3://never-was", login)
    for ask in (store.now, lambda: store.page(""), lambda: store.read("a")):
        with pytest.raises(PlatformError, match="s3://never-was") as error:
            ask()
        assert error.value.problem.remedy
    store.close()


def test_a_local_folder_as_root(world: World, tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    root.mkdir()
    gone, stays = world.run(objects=0), world.run(age=1, objects=0)
    for run in (gone, stays):
        folder = root / world.experiment / run / "artifacts"
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "MLmodel").write_text("x")
        world.sql.execute("update runs set artifact_uri = %s where run_uuid = %s", (f"file://{folder}", run))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (root / world.experiment / gone / "artifacts" / "link").symlink_to(outside)
    world.call("runs/delete", run_id=gone)
    report = Engine(world.database, Roots(world.store, [FileStore(f"file://{root}")])).run(
        [world.policy(rules=DELETED)]
    )
    assert not report.problems
    assert files(root) == {MARKER, f"{world.experiment}/{stays}/artifacts/model/MLmodel"}
    assert not (root / world.experiment / gone).exists(), "empty folders go, too"
    assert (outside / "precious").exists()
    with pytest.raises(BadInput, match="no such folder"):
        FileStore(str(tmp_path / "nowhere"))


def test_orphans(world: World) -> None:
    """Only objects that no row, version or journal entry names, of MLflow's shapes, past the grace."""
    where = world.stack.endpoints()
    login = S3Login(where.s3_endpoint, "us-east-1", where.s3_access_key, where.s3_secret_key)
    run, trace = world.run(), world.trace()
    model = world.logged_model(run)
    named, orphan = random_id(world.sql), random_id(world.sql)
    world.version(f"model-{world.experiment}", "s3://x/y", run_id=run)
    world.sql.execute(
        "update model_versions set storage_location = %s where name = %s",
        (f"mlflow-artifacts:/{world.experiment}/{named}/artifacts/model", f"model-{world.experiment}"),
    )
    base = f"mlflow-artifacts:/{world.experiment}"
    stays = {
        world.put(f"{base}/{named}/artifacts", "model/MLmodel"),
        world.put(f"{base}/notes", "readme.txt"),
        world.put(f"{base}/{orphan}", "not-artifacts"),
        world.put(f"mlflow-artifacts:/somebody/else/{orphan}/artifacts", "a"),
        world.put(f"mlflow-artifacts:/999999999/{orphan}/artifacts", "a"),  # no experiment of this database
        *world.objects(run), *world.objects(f"models/{model}"), *world.objects(f"traces/{trace}"),
    }  # fmt: skip
    goes = {
        world.put(f"{base}/{orphan}/artifacts", "a/b"),
        world.put(f"{base}/models/m-{orphan}/artifacts", "MLmodel"),
        world.put(f"{base}/traces/tr-{orphan}/artifacts", "traces.json"),
    }
    upload = world.store._client.create_multipart_upload(Bucket=where.s3_bucket, Key=f"{world.experiment}/x")
    rules = {"orphans": {}}

    def swept(days: int) -> object:
        store = Later(f"s3://{where.s3_bucket}", login)
        store.days = days
        return Engine(world.database, Roots(store)).run([world.policy(rules=rules)])

    def left() -> set[str]:
        return {*world.objects(), *(k for k in stays if world.store.read(k) is not None)}

    swept(6)
    assert left() == stays | goes, "the grace is not over"
    plan = Engine(world.database, Roots(Later(f"s3://{where.s3_bucket}", login))).plan(
        [world.policy(rules=rules)]
    )
    assert plan.experiments[None].purged["orphan"] >= 3
    assert left() == stays | goes
    swept(8)
    assert left() == stays
    uploads = world.store._client.list_multipart_uploads(Bucket=where.s3_bucket).get("Uploads", ())
    assert upload["UploadId"] not in {u["UploadId"] for u in uploads}


def test_the_sweep_has_a_brake_and_rests_after_a_copy(world: World) -> None:
    where = world.stack.endpoints()
    login = S3Login(where.s3_endpoint, "us-east-1", where.s3_access_key, where.s3_secret_key)
    bucket = f"orphans-{time.time_ns()}"
    store = Later(f"s3://{bucket}", login)
    store._client.create_bucket(Bucket=bucket)
    for _ in range(12):
        put(store, f"{world.experiment}/{random_id(world.sql)}/artifacts/a")
    engine = Engine(world.database, Roots(None, [store]))

    def swept(percent: int) -> tuple[int, list[str], list[str]]:
        report = engine.run([world.policy(rules={"orphans": {}}, brake={"maxPercent": percent})])
        return len([k for k in keys(store) if k != MARKER]), report.problems, report.notes

    count, problems, _ = swept(50)
    assert count == 12
    assert "12 of 12 objects belong to nothing" in problems[0]
    world.sql.execute("update mlplatform.installation set copied_at = now() - interval '29 days'")
    try:
        count, problems, notes = swept(100)
        assert (count, problems) == (12, [])
        assert "this database is a copy" in notes[0]
    finally:
        world.sql.execute("update mlplatform.installation set copied_at = null")
    assert swept(100)[0] == 0


def test_files_are_listed_in_the_order_of_s3(tmp_path: Path) -> None:
    for name in ("a/b", "a-b", "a", "a.txt", "ab/c", "a/b.c", "a/b/c"):
        path = tmp_path / name if name not in ("a", "a/b") else tmp_path / name / "x"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    store = FileStore(str(tmp_path))
    everything = keys(store)
    assert everything == sorted(everything)
    assert len(everything) == 7
    for start in everything:
        assert [one.key for one in store.page("", (start, "")).found] == [k for k in everything if k > start]
    assert [one.key for one in store.page("a/b").found] == ["a/b.c", "a/b/c", "a/b/x"]
    assert store.delete([Found("ab", 0, datetime.datetime.now(datetime.UTC))]), "a folder is no object"
    assert (tmp_path / "ab").is_dir()


def test_a_folder_is_read_once_for_all_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And anew by whoever lists it anew: what came meanwhile is seen."""
    names = [f"{one}/{n}" for one in "abc" for n in range(10)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    read, scandir = list[str](), os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: read.append(str(path)) or scandir(path))
    store = FileStore(str(tmp_path))
    found, after = list[str](), None
    while True:
        page = store.page("", after, 4)
        found += [one.key for one in page.found]
        if (after := page.after) is None:
            break
    assert found == names
    assert len(read) == len(set(read)) == 4
    first = store.page("", None, 4)
    (tmp_path / "a/35").touch()
    assert [one.key for one in store.page("", first.after, 1).found] == ["a/4"]
    assert [one.key for one in store.page("", ("a/3", ""), 1).found] == ["a/35"]
    things = [f"{one}/" for one in "abc"]
    read.clear()
    assert [(one.prefix, one.objects) for one in empty(store, things)] == [("a/", 11), ("b/", 10), ("c/", 10)]
    assert len(read) == 3, "each prefix for itself, and nothing around it"


def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds up the thing that it belongs to, and no other."""
    for name in ("a/x", "a/closed/x", "a/y", "b/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    scandir = os.scandir

    def refuse(path: Path) -> Any:
        if path.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    store = FileStore(str(tmp_path))
    assert keys(store) == ["a/closed/", "a/x", "a/y", "b/x"]
    assert [one.key for one in store.page("", ("a/closed/", "")).found] == ["a/x", "a/y", "b/x"]
    closed, whole = sorted(empty(store, ["a/", "b/"]), key=lambda one: one.prefix)
    assert (closed.objects, closed.whole) == (2, False)
    assert closed.problem == "a/closed/: PermissionError the folder cannot be listed"
    assert (whole.objects, whole.whole) == (1, True)
    assert (tmp_path / "a/closed/x").exists()


def test_what_killed_writers_left_in_a_folder_is_swept_when_it_is_old(world: World, tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    root.mkdir()
    store = FileStore(str(root))
    with store.writing("kept") as out:
        out.write(b"x")
        (unfinished,) = root.glob("*/*")
        for name, age in (("old", datetime.timedelta(days=9)), ("young", datetime.timedelta(hours=1))):
            left = unfinished.with_name(name)
            left.write_text("half")
            at = (datetime.datetime.now(datetime.UTC) - age).timestamp()
            os.utime(left, (at, at))
    assert keys(store) == ["kept"], "no listing shows them"
    engine = Engine(world.database, Roots(world.store, [store]))
    report = engine.run([world.policy(rules={"orphans": {"olderThan": "7d"}})])
    assert f"{store.uri}: aborted 1 unfinished uploads" in report.notes
    assert {path.name for path in root.glob("*/*")} == {"young"}


class Counting(FileStore):
    """A folder that counts how many requests to delete are under way at once."""

    together = most = 0

    def __init__(self, uri: str, meet: threading.Barrier | None) -> None:
        super().__init__(uri)
        self.meet, self.lock = meet, threading.Lock()

    def delete(self, objects: Sequence[Found]) -> Mapping[Found, Refusal]:
        with self.lock:
            self.together += 1
            self.most = max(self.most, self.together)
        if self.meet:
            self.meet.wait(30)
        try:
            return super().delete(objects)
        finally:
            with self.lock:
                self.together -= 1


@pytest.mark.parametrize("slow", [False, True])
def test_one_request_at_a_time_while_the_server_is_slow(tmp_path: Path, slow: bool) -> None:
    (tmp_path / "1/a").mkdir(parents=True)
    for n in range(2 * MOST_KEYS):
        (tmp_path / f"1/a/{n}").touch()
    store = Counting(str(tmp_path), None if slow else threading.Barrier(2))
    done = list(empty(store, ["1/a/"], pause=lambda: slow))
    assert [(one.objects, one.whole) for one in done] == [(2 * MOST_KEYS, True)]
    assert store.most == (1 if slow else 2)
