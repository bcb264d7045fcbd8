"""Retention that archives: only what is archived as it is goes, and all of it comes back."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.adapters.files import FileStore
from mlflow_platform.archive import manifest
from mlflow_platform.archive.create import archive
from mlflow_platform.archive.restore import restore
from mlflow_platform.archive.retained import Retained
from mlflow_platform.archive.verify import verify
from mlflow_platform.errors import BadInput, PlatformError
from mlflow_platform.retention import journal
from mlflow_platform.retention.engine import Engine
from mlflow_platform.retention.report import Report
from mlflow_platform.retention.roots import Roots
from mlflow_platform.server.dump import Sink
from tests.archive.conftest import Contents, fill
from tests.faults.dying_runs import Dying
from tests.retention.conftest import World

OLD = {"runs": {"olderThan": "90d"}, "traces": {"olderThan": "90d"}}
WHOLE = {"experiments": {"softDeletedFor": "0s"}}
GONE = {"runs": {"softDeletedFor": "0s"}}


def spec(folder: FileStore, rules: dict[str, Any]) -> dict[str, Any]:
    return {"rules": rules, "archive": {"destination": folder.uri}}


def retain(
    world: World,
    folder: FileStore,
    rules: dict[str, Any],
    act: Callable[[str], None] = lambda _: None,
    roots: Roots | None = None,
) -> Report:
    """One retention run that archives to a folder; `act` is called at each step."""
    policy = world.policy(**spec(folder, rules))
    roots = roots or Roots(world.store)
    archiver = Retained(world.database, roots, {policy.metadata.name: folder}, step=act)
    return Engine(world.database, roots, step=act, archiver=archiver).run([policy])


def archives(folder: FileStore) -> list[manifest.Manifest]:
    return [manifest.read(folder, one) for one in manifest.ids(folder)]


def bring_back(world: World, folder: FileStore) -> None:
    """Restore everything, oldest first."""
    for one in archives(folder):
        restore(world.database, Roots(world.store), folder, one)


def test_what_a_policy_purges_is_archived_and_comes_back_as_it_was(world: World, folder: FileStore) -> None:
    journal.open_journal(world.sql)
    run, _, _ = fill(world)
    before = Contents(world)
    retain(world, folder, OLD)  # the trace goes, the run is quarantined
    assert world.stage(run) == "deleted"
    assert [one.counts.get("trace_info", 0) for one in archives(folder)] == [1]
    world.age_quarantine()
    report = retain(world, folder, OLD)
    assert report.total("purged") == {"run": 1}
    assert not report.problems
    assert world.objects() == []
    assert any("1 runs archived as" in note for note in report.notes)
    assert {one.policy for one in archives(folder)} == {"test"}

    # The trace first, as it was archived first: assessments of the run's stand on it.
    bring_back(world, folder)
    after = Contents(world)
    assert after.objects == before.objects
    # Quarantine counts as an update of a logged model; of the run nothing is left of it.
    assert after.rows == before.rows
    assert retain(world, folder, {"runs": OLD["runs"]}).empty, "what was restored is not chosen again"
    world.sql.execute("update mlplatform.purged set next_at = now() where state = 'watched'")
    world.retain(rules={"runs": OLD["runs"]})
    assert Contents(world).objects == before.objects, "nor do its objects go by an old journal entry"


def test_a_deleted_experiment_is_archived_whole(world: World, folder: FileStore) -> None:
    journal.open_journal(world.sql)
    fill(world)
    before = Contents(world)
    world.call("experiments/delete", experiment_id=world.experiment)
    whole = Contents(world)
    changes = {
        "trace": "insert into trace_tags (key, value, request_id) select 'late', 'x', unnest(%(t)s::text[])",
        "run": "insert into tags select 'late', 'x', unnest(%(r)s::text[])",
        "logged model": "insert into logged_model_tags select unnest(%(m)s::text[]), %(e)s, 'late', 'x'",
        "experiment": "insert into experiment_tags values ('late', 'x', %(e)s)",
    }
    undo = {
        "trace": "delete from trace_tags where key = 'late' and request_id = any(%(t)s)",
        "run": "delete from tags where key = 'late' and run_uuid = any(%(r)s)",
        "logged model": "delete from logged_model_tags where tag_key = 'late' and model_id = any(%(m)s)",
        "experiment": "delete from experiment_tags where key = 'late' and experiment_id = %(e)s",
    }
    values = {**before.ids, "e": int(world.experiment)}
    for kind, change in changes.items():
        with world.database.connect(autocommit=True) as other:

            def act(name: str, change: str = change) -> None:
                # All of it is archived, nothing is locked yet.
                if name == "compare trace: begin":
                    assert other.execute(change, values).rowcount == 1

            report = retain(world, folder, WHOLE, act)
        assert not report.total("purged"), kind
        assert report.kept["not archived as it is now: the next run tries again"] >= 1, kind
        world.sql.execute(undo[kind], values)
        assert Contents(world).rows == whole.rows, kind
        assert Contents(world).objects == whole.objects, kind

    report = retain(world, folder, WHOLE)
    assert report.total("purged")["experiment"] == 1
    assert not report.problems
    assert world.objects() == []
    assert not any(Contents(world).rows.values())
    bring_back(world, folder)
    after = Contents(world)
    assert after.objects == before.objects
    # MLflow's own deletion of the experiment took the assessments that its runs had made.
    expected = {**whole.rows, "runs": before.rows["runs"], "experiments": after.rows["experiments"]}
    assert after.rows == expected
    assert world.one("select lifecycle_stage from experiments where name = %s", world.name) == "active"


def test_nothing_goes_where_the_archive_cannot_be_written(world: World, folder: FileStore) -> None:
    run = world.run()
    world.call("runs/delete", run_id=run)
    whole = Contents(world)

    class Full(FileStore):
        def writing(self, key: str, size: int | None = None) -> AbstractContextManager[Sink]:
            if key.startswith("manifests/"):
                raise BadInput("no room")
            return super().writing(key, size)

    full = Full(folder.uri)
    with pytest.raises(PlatformError, match="no room"):
        retain(world, full, GONE)
    assert Contents(world).rows == whole.rows
    assert Contents(world).objects == whole.objects
    assert archives(folder) == []
    assert len(manifest.unfinished(folder)) == 1

    class Lying(FileStore):
        """A store that answers and loses a byte."""

        @contextmanager
        def writing(self, key: str, size: int | None = None) -> Iterator[Sink]:
            with super().writing(key, size) as out:
                yield out
            path = Path(folder.uri.removeprefix("file://")) / key
            if path.name == "file-0":
                path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(PlatformError, match="file-0 is not what was archived"):
        retain(world, Lying(folder.uri), GONE)
    assert Contents(world).rows == whole.rows
    assert archives(folder) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("link", "link: it is a link, and none is followed"),
        (os.fsdecode(b"caf\xe9"), "caf\\udce9: its name is not UTF-8"),
    ],
    ids=["link", "name"],
)
def test_what_cannot_be_archived_stays_and_holds_nothing_else_up(
    world: World, folder: FileStore, tmp_path: Path, name: str, why: str
) -> None:
    """A link in a local root is not followed: its run stays, with what it leads to, and why is said. A name
    that is no text has no place in an archive."""
    root = tmp_path / "artifacts"
    root.mkdir()
    (tmp_path / "elsewhere").write_text("somebody else's")
    linked, gone = world.run(objects=0), world.run(objects=0)
    for run in (linked, gone):
        place = root / world.experiment / run / "artifacts"
        place.mkdir(parents=True)
        (place / "file").write_text(run)
        world.sql.execute("update runs set artifact_uri = %s where run_uuid = %s", (f"file://{place}", run))
        world.call("runs/delete", run_id=run)
    odd = root / world.experiment / linked / "artifacts" / name
    if name == "link":
        odd.symlink_to(tmp_path / "elsewhere")
    else:
        odd.write_text("odd")
    roots = Roots(world.store, [FileStore(str(root))])
    report = retain(world, folder, GONE, roots=roots)
    assert report.total("purged") == {"run": 1}
    assert report.kept["not archived as it is now: the next run tries again"] == 1
    assert any(why in note for note in report.notes), report.notes
    assert not report.problems
    assert world.exists(linked)
    assert not world.exists(gone)
    left = {path.name for path in root.rglob("*") if path.is_file() and path.parent != root}
    assert left == {"file", name}
    assert len(archives(folder)) == 1
    assert retain(world, folder, GONE, roots=roots).empty
    assert len(archives(folder)) == 1, "it is not archived in part, night after night"


def test_a_run_without_an_archiver_is_refused(world: World, folder: FileStore) -> None:
    with pytest.raises(BadInput, match="no archive was opened"):
        world.engine().run([world.policy(**spec(folder, GONE))])


@pytest.mark.parametrize(
    "change",
    [
        "update tags set value = 'new' where run_uuid = %(run)s and key = 'note'",
        "insert into tags values ('late', 'x', %(run)s)",
        "insert into inputs values (gen_random_uuid()::text, 'RUN_INPUT', %(run)s, 'MODEL_INPUT', 'm-x', 0)",
        "insert into metrics values ('late', 1, 1, %(run)s, 0, false)",
        "insert into logged_model_tags values (%(model)s, %(e)s, 'late', 'x')",
    ],
)
def test_what_changed_since_it_was_archived_is_archived_again(
    world: World, folder: FileStore, change: str
) -> None:
    journal.open_journal(world.sql)
    run = world.run(tags={"note": "old"})
    model = world.logged_model(run)
    world.call("runs/delete", run_id=run)

    def act(name: str) -> None:
        if name == "purge run: begin":
            world.sql.execute(change, {"run": run, "model": model, "e": int(world.experiment)})

    report = retain(world, folder, GONE, act)
    assert not report.total("purged")
    assert report.kept["not archived as it is now: the next run tries again"] == 1
    whole = Contents(world)
    assert retain(world, folder, GONE).total("purged") == {"run": 1}
    first, second = archives(folder)
    assert world.objects() == []
    restore(world.database, Roots(world.store), folder, second)
    world.call("runs/delete", run_id=run)
    at = {table: rows for table, rows in Contents(world).rows.items() if table != "runs"}
    assert at == {table: rows for table, rows in whole.rows.items() if table != "runs"}
    with pytest.raises(BadInput, match=f"differ from the archive: .*run {run}"):
        restore(world.database, Roots(world.store), folder, first)


def test_changes_wait_while_a_purge_compares(world: World, folder: FileStore) -> None:
    """From the comparison to the commit nobody writes a row that would be deleted unseen."""
    run, beside = world.run(tags={"note": "old"}), world.run(age=1)
    world.call("runs/delete", run_id=run)
    done: list[str] = []

    def write(statement: str) -> None:
        with world.database.connect(autocommit=True) as other:
            other.execute("set lock_timeout = 0")
            done.append(f"{other.execute(statement, {'run': run}).rowcount} {statement[:6]}")

    threads = [
        threading.Thread(target=write, args=(statement,))
        for statement in (
            "update tags set value = 'new' where run_uuid = %(run)s and key = 'note'",
            "insert into inputs values ('late', 'RUN_INPUT', %(run)s, 'MODEL_INPUT', 'm-x', 0)",
        )
    ]

    def act(name: str) -> None:
        if name == "purge run: before commit":
            for thread in threads:
                thread.start()
            waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            for _ in range(1000):
                if world.one(waiting) >= len(threads):
                    break
                time.sleep(0.01)
            else:
                raise AssertionError("they do not wait")
            assert done == []
            # Nobody else waits: other runs of the experiment come and go.
            with world.database.connect(autocommit=True) as other:
                other.execute("insert into tags values ('k', 'v', %s)", (beside,))
                other.execute(
                    "insert into runs (run_uuid, experiment_id) values ('new', %s)",
                    (world.experiment,),
                )

    assert retain(world, folder, GONE, act).total("purged") == {"run": 1}
    for thread in threads:
        thread.join(30)
    # The update found nothing any more; the input came late, and goes when it is looked at again.
    assert sorted(done) == ["0 update", "1 insert"]
    world.sql.execute("delete from inputs where input_uuid = 'late'")
    world.sql.execute("delete from runs where run_uuid = 'new'")


def test_a_run_whose_artifacts_nobody_finds_stays(world: World, folder: FileStore) -> None:
    run, other = world.run(), world.run()
    for one in (run, other):
        world.call("runs/delete", run_id=one)
    world.sql.execute(
        "update runs set artifact_uri = 's3://elsewhere/' || run_uuid where run_uuid = %s", (run,)
    )
    for purged in (1, 0):
        report = retain(world, folder, GONE)
        assert report.total("purged")["run"] == purged
        assert any("no store is given for s3://elsewhere" in note for note in report.notes)
        assert len(archives(folder)) == 1
    assert (world.exists(run), world.exists(other)) == (True, False)


def test_an_archive_that_is_gone_or_stale_is_made_again(world: World, folder: FileStore) -> None:
    run = world.run()
    world.call("runs/delete", run_id=run)

    class Stop(Exception):
        pass

    def stop(name: str) -> None:
        if name == "archive noted":
            raise Stop

    def noted() -> int:
        with pytest.raises(Stop):
            retain(world, folder, GONE, stop)
        return len(archives(folder))

    assert noted() == 1
    world.put(world.uri(run), "late")
    assert noted() == 2, "an object came"
    world.sql.execute("update runs set name = 'renamed' where run_uuid = %s", (run,))
    assert noted() == 3, "a row changed"
    for one in manifest.ids(folder):
        (Path(folder.uri.removeprefix("file://")) / manifest.key(one)).unlink()
    assert noted() == 1, "the archives are gone"
    assert retain(world, folder, GONE).total("purged") == {"run": 1}
    assert len(archives(folder)) == 1, "what is archived as it is, is not archived again"


def test_deleting_under_load(world: World, folder: FileStore) -> None:
    """Everything that the server acknowledged is in the database, or in an archive that gives it back."""
    journal.open_journal(world.sql)
    old = [world.run() for _ in range(6)]
    for run in old:
        world.call("runs/delete", run_id=run)
    before = Contents(world)
    live, stop = world.run(age=0), threading.Event()
    written: dict[int, int] = {}

    def log(number: int) -> None:
        while not stop.is_set():
            n = written.get(number, 0)
            world.call("runs/log-metric", run_id=live, key=f"k{number}", value=n, timestamp=n, step=n)
            world.call("runs/set-tag", run_id=live, key=f"k{number}", value=str(n))
            written[number] = n + 1

    threads = [threading.Thread(target=log, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        report = retain(world, folder, GONE)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert report.total("purged") == {"run": 6}
    count = "select count(*) from metrics where run_uuid = %s and key like 'k%%'"
    assert world.one(count, live) == sum(written.values())
    bring_back(world, folder)
    for run in old:
        world.call("runs/delete", run_id=run)
    after = Contents(world)
    assert {k: v for k, v in after.objects.items() if live not in k} == before.objects
    for table in ("metrics", "params", "tags", "latest_metrics", "inputs"):
        assert [row for row in after.rows[table] if live not in row] == before.rows[table]


@pytest.fixture
def dying() -> Iterator[Dying]:
    program = Dying("tests.faults.dying_archive")
    try:
        yield program
    finally:
        program.close()


#: The steps around those that change what the next run finds; soak tries all, and tests/faults/retention what
#: comes after the commit.
_TELLING = ("verified", "manifest written", "purge run: before commit", "purge run: committed")


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_killed_at_every_step(
    world: World, folder: FileStore, dying: Dying, subtests: pytest.Subtests, *, every: bool
) -> None:
    """No half archive is taken for a whole one, nothing is purged without one, and the next run finishes;
    a restore that is killed is finished by the next."""
    journal.open_journal(world.sql)
    root = Path(folder.uri.removeprefix("file://"))
    run, _, trace = fill(world)
    # MLflow's delete_run takes it, before anything is archived.
    world.sql.execute("delete from assessments where name = 'by run' and trace_id = %s", (trace,))
    whole = Contents(world)
    rules = {**GONE, "traces": {"olderThan": "90d"}}

    def purge(point: int) -> dict[str, Any]:
        if world.stage(run) == "active":
            world.call("runs/delete", run_id=run)
        return dying.run(world, point, rules, archives=folder.uri)

    def come_back(point: int = 0, only: str = "") -> list[str]:
        """Restore all archives, or one; the steps of the last."""
        for one in [only] if only else list(manifest.ids(folder)):
            found = dying.run(world, point, rules, archives=folder.uri, restore=one)
            assert found["code"] == (-signal.SIGKILL if point else 0)
            steps: list[str] = found["steps"]
        assert point or Contents(world).rows == whole.rows
        assert point or Contents(world).objects == whole.objects
        return steps

    clean = purge(0)
    assert clean["code"] == 0
    assert world.objects() == []
    come_back()
    names: list[str] = clean["steps"]
    assert set(_TELLING) <= set(names)
    for point in range(1, len(names) + 1):
        name = names[point - 1]
        if not every and (name not in _TELLING or name in names[: point - 1]):
            continue
        with subtests.test(point=point, step=names[point - 1]):
            shutil.rmtree(root)
            root.mkdir()
            assert purge(point)["code"] == -signal.SIGKILL
            for one in archives(folder):
                assert list(verify(folder, one)) == []
            if not world.exists(run):
                assert any(one.counts.get("runs") for one in archives(folder))
            assert purge(0)["code"] == 0
            assert not world.exists(run)
            assert world.objects() == []
            come_back()
    made = archive(world.database, Roots(world.store), folder, experiments=[world.name])
    assert purge(0)["code"] == 0
    steps = come_back(only=made.manifest.id)
    assert {"loaded", "objects uploaded", "before commit"} <= set(steps)
    for point in range(1, len(steps) + 1):
        with subtests.test(point=point, restore=steps[point - 1]):
            assert purge(0)["code"] == 0
            come_back(point, made.manifest.id)
            come_back(only=made.manifest.id)
