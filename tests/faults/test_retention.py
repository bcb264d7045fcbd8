"""Retention under faults: killed at every step, restored and registered meanwhile, late uploads and spans,
a lost database, a store that refuses."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlflow_platform.adapters.object_store import Found
from mlflow_platform.adapters.s3 import S3Login, S3Store
from mlflow_platform.errors import Rejected
from mlflow_platform.local import Stack
from mlflow_platform.retention.engine import Engine
from mlflow_platform.retention.report import Report
from mlflow_platform.retention.roots import Roots
from tests.bench.fill import Filler
from tests.faults import proxy
from tests.retention.conftest import World, make_world, random_id

RULES = {
    "runs": {"olderThan": "90d", "softDeletedFor": "0s"},
    "loggedModels": {"softDeletedFor": "0s"},
    "traces": {"olderThan": "30d"},
}
_ID = re.compile(r"(?:m-|tr-)?[0-9a-f]{32}")


@pytest.fixture
def world(stack: Stack, request: pytest.FixtureRequest) -> Iterator[World]:
    yield from make_world(stack, f"retention-faults/{request.node.name}-{time.time_ns()}")


class Dying:
    """The program that carries out runs which kill themselves."""

    def __init__(self, program: str = "tests.faults.dying_retention") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        world: World,
        point: int,
        rules: dict[str, Any],
        selector: dict[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """One run killed at a step (0: none); its exit code and the names of its steps."""
        where = world.stack.endpoints()
        policy = world.policy(rules=rules, **({"selector": selector} if selector else {}))
        order = {
            "point": point,
            "policies": [policy.model_dump(mode="json", exclude_none=True)],
            "database": where.database_uri,
            "store": {
                "uri": f"s3://{where.s3_bucket}",
                "login": {
                    "endpoint": where.s3_endpoint,
                    "region": "us-east-1",
                    "access_key": where.s3_access_key,
                    "secret_key": where.s3_secret_key,
                },
            },
            **more,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def dying() -> Iterator[Dying]:
    program = Dying()
    try:
        yield program
    finally:
        program.close()


def everything(world: World) -> dict[str, str]:
    """One of each that a run works on: to be quarantined, to be purged, and to stay."""
    found = {"old": world.run(), "deleted": world.run(), "kept": world.run(age=1), "trace": world.trace()}
    world.logged_model(found["deleted"], objects=1)
    found["model"] = world.logged_model(objects=1)
    world.call(f"logged-models/{found['model']}", "DELETE")
    world.call("runs/delete", run_id=found["deleted"])
    return found


def unaccounted(world: World) -> list[str]:
    """Objects that neither a row nor a journal entry names."""
    ids = {key: _ID.findall(key)[0] for key in world.objects()}
    query = (
        "select run_uuid from runs where run_uuid = any(%(i)s) union select model_id from logged_models"
        " where model_id = any(%(i)s) union select request_id from trace_info where request_id = any(%(i)s)"
        " union select id from mlplatform.purged where id = any(%(i)s) and state = 'pending'"
    )
    known = {row[0] for row in world.sql.execute(query, {"i": list(ids.values())})}
    return [key for key, own in ids.items() if own not in known]


#: Without the sweep: around each commit, and between the store and its note.
_TELLING = (": before commit", ": committed", "objects deleted")
sweep = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)])


def points(steps: list[str], *, every: bool) -> list[int]:
    """Numbers of the steps to be killed at."""
    return [i for i, name in enumerate(steps, 1) if every or name.endswith(_TELLING)]


@sweep
def test_killed_at_every_step(world: World, dying: Dying, subtests: pytest.Subtests, every: bool) -> None:
    """Whatever step is the last: every object has a row or an entry, what must stay is whole, and the next
    run finishes."""
    again = "update mlplatform.purged set next_at = now() where state = 'watched'"
    world.retain(rules=RULES)  # makes journal, marker and indexes
    before = world.counts()
    kept = everything(world)["kept"]
    clean = dying.run(world, 0, RULES)
    assert clean["code"] == 0
    steps = clean["steps"]
    names = {name.rsplit(":", 1)[0] for name in steps}
    assert {"quarantine run", "purge run", "purge logged model", "purge trace"} <= names
    world.sql.execute(again)
    steps_again = dying.run(world, 0, RULES)["steps"]
    assert "looking again: committed" in steps_again
    world.age_quarantine()
    world.call("runs/delete", run_id=kept)
    world.retain(rules=RULES)
    assert world.objects() == []

    for point in points(steps, every=every):
        with subtests.test(point=point, step=steps[point - 1]):
            found = everything(world)
            assert dying.run(world, point, RULES)["code"] == -signal.SIGKILL
            assert unaccounted(world) == []
            assert world.stage(found["kept"]) == "active"
            if world.stage(found["old"]) == "deleted":
                held = "select stamp = deleted_time from mlplatform.quarantine join runs on id = run_uuid"
                held += " where id = %s"
                assert world.one(held, found["old"])
            assert not world.retain(rules=RULES).problems
            world.age_quarantine()
            assert not world.retain(rules=RULES).problems
            assert {key.split("/")[1] for key in world.objects()} == {found["kept"]}
            world.call("runs/delete", run_id=found["kept"])
            world.retain(rules=RULES)
            assert world.objects() == []
            after = world.counts()
            assert {t: n - before[t] for t, n in after.items() if n != before[t]} in ({}, {"datasets": 1})
    for point in points(steps_again, every=every):
        with subtests.test(point=point, again=steps_again[point - 1]):
            run = world.run()
            world.call("runs/delete", run_id=run)
            uri = world.uri(run)
            world.retain(rules=RULES)
            world.put(uri, "late")
            world.sql.execute(again)
            dying.run(world, point, RULES)
            world.sql.execute(again)
            world.retain(rules=RULES)
            assert world.objects() == []


WHOLE = {"experiments": {"softDeletedFor": "0s"}}


def _prefix(world: World) -> str:
    """A parameter's name in brackets would be a pattern."""
    return world.name.replace("[", "-").replace("]", "-")


def deleted_experiment(world: World) -> dict[str, list[str]]:
    """A new experiment with two runs, a logged model and a trace, deleted; its things, as keys hold them."""
    name = f"{_prefix(world)}-{time.time_ns()}"
    world.experiment = world.call("experiments/create", name=name)["experiment_id"]
    runs = [world.run(age=1) for _ in range(2)]
    found = {"runs": runs, "models": [world.logged_model(runs[0])], "traces": [world.trace(age=1)]}
    world.call("experiments/delete", experiment_id=world.experiment)
    return found


@sweep
def test_killed_while_an_experiment_goes(
    world: World, dying: Dying, subtests: pytest.Subtests, every: bool
) -> None:
    """It is there as a whole or not at all, and the next run finishes it. Where the user restores it in
    between, nothing of it is missing."""
    world.retain(rules=WHOLE)
    before = world.counts()
    selected = {"experiments": [f"{_prefix(world)}-*"]}
    deleted_experiment(world)
    steps = dying.run(world, 0, WHOLE, selected)["steps"]
    assert "purge experiment: committed" in steps
    for point in points(steps, every=every):
        with subtests.test(point=point, step=steps[point - 1]):
            deleted_experiment(world)
            whole = world.counts()
            assert dying.run(world, point, WHOLE, selected)["code"] == -signal.SIGKILL
            assert world.counts() in (whole, before)
            assert unaccounted(world) == []
            assert not world.retain(rules=WHOLE, selector=selected).problems
            assert world.objects() == []
            after = world.counts()
            assert {t: n - before[t] for t, n in after.items() if n != before[t]} == {}
    with subtests.test(restored=True):
        found = deleted_experiment(world)
        whole, objects = world.counts(), world.objects()
        dying.run(world, steps.index("purge run: committed") + 1, WHOLE, selected)
        world.call("experiments/restore", experiment_id=world.experiment)
        assert not world.retain(rules=WHOLE, selector=selected).problems
        assert [world.stage(run) for run in found["runs"]] == ["active", "active"]
        assert (world.counts(), world.objects()) == (whole, objects)


@sweep
def test_killed_while_versions_and_orphans_go(
    world: World, dying: Dying, subtests: pytest.Subtests, every: bool
) -> None:
    """The next run finishes it; what is not chosen stays."""
    model, kept = f"model-{world.experiment}", world.run(age=1)
    rules = {"modelVersions": {"models": [model], "keepLast": 1}, "orphans": {}}
    world.version(model, "s3://elsewhere/0")

    def prepare() -> None:
        world.version(model, "s3://elsewhere/1", tags=[{"key": "a", "value": "b"}])
        world.retain(rules=rules)
        world.age_quarantine()
        for one in (random_id(world.sql), f"models/m-{random_id(world.sql)}"):
            world.put(f"mlflow-artifacts:/{world.experiment}/{one}/artifacts", "a")

    prepare()
    steps = dying.run(world, 0, rules)["steps"]
    assert {"purge version: committed", "orphans: committed"} <= set(steps)
    for point in points(steps, every=every):
        with subtests.test(point=point, step=steps[point - 1]):
            prepare()
            assert dying.run(world, point, rules)["code"] == -signal.SIGKILL
            assert dying.run(world, 0, rules)["code"] == 0
            assert world.one("select count(*) from model_versions where name = %s", model) == 1
            tags = "select count(*) from model_version_tags where name = %s"
            assert world.one(tags, model) == 1
            assert world.objects() == world.objects(kept)
            assert len(world.objects(kept)) == 2


def test_an_experiment_stays_whole_when_a_version_comes_first(world: World) -> None:
    """Registered from one of its runs after it was chosen: what went before in the transaction comes back."""
    found = deleted_experiment(world)
    before, objects = world.counts(), world.objects()
    model = f"model-{world.experiment}"
    once = iter([1])

    def act(step: str) -> None:
        if step == "purge trace: committed" and next(once, None):
            world.version(model, f"{world.uri(found['runs'][1])}/model")

    policy = world.policy(rules=WHOLE, selector={"experiments": [f"{_prefix(world)}-*"]})
    report = world.engine(act).run([policy])
    after = world.counts()
    changed = {t: n - before[t] for t, n in after.items() if n != before[t]}
    assert changed == {"registered_models": 1, "model_versions": 1}
    assert world.objects() == objects
    assert report.kept["a model version names it"]


def with_steps(world: World, act: Callable[[str], None]) -> Report:
    """A run that calls `act` at each step."""
    return world.engine(act).run([world.policy(rules=RULES)])


def test_a_run_restored_before_its_rows_commit_survives_whole(
    world: World, subtests: pytest.Subtests
) -> None:
    run = world.run()
    model = world.logged_model(run)
    rows = {t: world.counts()[t] for t in ("metrics", "params", "tags", "inputs", "logged_model_metrics")}
    moments: list[str] = []
    world.call("runs/delete", run_id=run)
    world.call("runs/restore", run_id=run)
    world.call("runs/delete", run_id=run)
    policy = {"runs": {"softDeletedFor": "0s"}}

    def note(name: str) -> None:
        moments.append(name)
        if name == "purge run: begin":  # the last moment at which nothing is locked
            world.call("runs/restore", run_id=run)

    world.engine(note).run([world.policy(rules=policy)])
    assert "purge run: before commit" in moments
    for moment in moments[: moments.index("purge run: begin") + 1]:
        with subtests.test(moment=moment):
            if world.stage(run) == "active":
                world.call("runs/delete", run_id=run)

            def restore(name: str, moment: str = moment) -> None:
                if name == moment and world.stage(run) == "deleted":
                    world.call("runs/restore", run_id=run)

            world.engine(restore).run([world.policy(rules=policy)])
            assert world.stage(run) == "active"
            assert len(world.objects(run)) == 2
            assert len(world.objects(f"models/{model}")) == 2
            assert {t: world.counts()[t] for t in rows} == rows


def test_a_restore_that_comes_too_late_is_refused_and_nothing_is_half_gone(world: World) -> None:
    run = world.run()
    world.call("runs/delete", run_id=run)
    outcome: list[BaseException | None] = []

    def restore() -> None:
        try:
            world.call("runs/restore", run_id=run)
            outcome.append(None)
        except Rejected as error:
            outcome.append(error)

    thread = threading.Thread(target=restore)

    def act(name: str) -> None:
        if name == "purge run: before commit":
            thread.start()
            _until_blocked(world)

    with_steps(world, act)
    thread.join(30)
    assert isinstance(outcome[0], Rejected), "it is told that there is no such run"
    assert not world.exists(run)
    assert world.objects() == []


def _until_blocked(world: World) -> None:
    """Wait until a connection of the server waits for a lock of ours."""
    blocked = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    blocked += " and datname = current_database()"
    for _ in range(1000):
        if world.one(blocked):
            return
        time.sleep(0.01)
    raise AssertionError("nobody waits")


def test_a_version_registered_while_its_run_is_purged(world: World) -> None:
    """Before the rows are locked: the run stays. While they are being deleted: it waits for the commit, and
    then its objects stay and are reported."""
    early, late = world.run(), world.run()
    model = f"model-{world.experiment}"
    world.call("registered-models/create", name=model)
    uris = {run: world.uri(run) for run in (early, late)}
    for run in (early, late):
        world.call("runs/delete", run_id=run)

    def register(run: str) -> None:
        world.version(model, f"{uris[run]}/model")

    thread = threading.Thread(target=register, args=(late,))

    def act(name: str) -> None:
        if name == "purge run: begin":
            register(early)
        if name == "purge run: before commit":
            thread.start()
            _until_blocked(world)
        if name == "purge run: committed":
            thread.join(30)

    report = with_steps(world, act)
    assert world.stage(early) == "deleted"
    assert report.kept["a model version names it"] == 1
    assert not world.exists(late)
    assert len(world.objects(late)) == 2, "a version names them now"
    assert any(late in note for note in report.notes)
    world.sql.execute("update mlplatform.purged set next_at = now()")
    world.retain(rules=RULES)
    assert len(world.objects(late)) == 2
    assert world.one("select state from mlplatform.purged where id = %s", late) == "claimed"


def test_late_uploads_inputs_and_spans_are_found_an_hour_and_a_day_later(world: World) -> None:
    run, trace = world.run(), world.trace()
    uri = world.uri(run)
    before = {t: n for t, n in world.counts().items() if t in ("inputs", "trace_info", "spans", "trace_tags")}
    world.call("runs/delete", run_id=run)
    world.retain(rules=RULES)
    assert world.objects() == []

    def come_late() -> None:
        world.put(uri, "late")
        world.sql.execute(
            "insert into inputs (input_uuid, source_type, source_id, destination_type, destination_id)"
            " values (gen_random_uuid()::text, 'DATASET', 'd', 'RUN', %s)",
            (run,),
        )
        world.sql.execute(
            "insert into trace_info (request_id, experiment_id, timestamp_ms, status)"
            " values (%s, %s, 1, 'OK')",
            (trace, int(world.experiment)),
        )
        world.span(trace)

    for hours in (1, 24):
        come_late()
        world.retain(rules={"runs": {"softDeletedFor": "0s"}})
        assert len(world.objects()) == 1, "it is not looked at yet"
        world.sql.execute(
            "update mlplatform.purged set purged_at = purged_at - %s * interval '1 hour',"
            " next_at = next_at - %s * interval '1 hour' where id = any(%s)",
            (hours, hours, [run, trace]),
        )
        report = world.retain(rules={"runs": {"softDeletedFor": "0s"}})
        assert not report.problems
        assert world.objects() == []
        after = world.counts()
        assert all(after[t] < n for t, n in before.items())
    assert world.one("select count(*) from mlplatform.purged where id = %s and state = 'done'", run) == 1


@pytest.mark.parametrize("moment", ["purge run: before commit", "purge run: committed", "objects deleted"])
def test_lost_connections_begin_again(world: World, moment: str) -> None:
    found = everything(world)
    once = iter([moment])

    def act(name: str) -> None:
        if name == moment and next(once, None):
            end = (
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'mlplatform'"
            )
            world.sql.execute(f"{end} and pid <> pg_backend_pid()")

    report = with_steps(world, act)
    assert not report.problems
    assert not world.exists(found["deleted"])
    assert unaccounted(world) == []
    assert world.stage(found["kept"]) == "active"
    assert not world.objects(found["deleted"])


def test_postgres_restarted_in_the_middle(world: World, stack: Stack) -> None:
    found = everything(world)
    once = iter([1])

    def act(name: str) -> None:
        if name == "purge run: before commit" and next(once, None):
            pid = next(p.pid for p in stack.status().processes if p.name == "postgres")
            assert pid is not None
            os.kill(pid, signal.SIGQUIT)

    report = with_steps(world, act)
    for _ in range(600):
        if stack.status().healthy:
            break
        time.sleep(0.1)
    assert stack.status().healthy
    assert not report.problems
    for again in make_world(stack, world.name + "-after"):
        assert not again.exists(found["deleted"])
        assert again.stage(found["kept"]) == "active"
        assert again.stage(found["old"]) == "deleted"


def through(world: World, gateway: proxy.Proxy) -> Engine:
    """An engine whose store is behind the proxy, with the same marker as the stack's own."""
    where = world.stack.endpoints()
    login = S3Login(gateway.uri, "us-east-1", where.s3_access_key, where.s3_secret_key)
    return Engine(world.database, Roots(S3Store(f"s3://{where.s3_bucket}", login)))


@pytest.fixture
def gateway(stack: Stack) -> Iterator[proxy.Proxy]:
    address = urlsplit(stack.endpoints().s3_endpoint)
    with proxy.Proxy((address.hostname or "", address.port or 0)) as running:
        yield running


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>fault</Message></Error>".encode()


def test_a_store_that_throttles_or_loses_answers(world: World, gateway: proxy.Proxy) -> None:
    run = world.run()
    world.call("runs/delete", run_id=run)
    bucket = f"/{world.stack.endpoints().s3_bucket}"
    slow = proxy.answer(503, _error("SlowDown"), "application/xml")
    gateway.on(f"GET {bucket}", slow, times=1)
    gateway.on(f"POST {bucket}", slow, times=1)
    gateway.on(f"POST {bucket}", proxy.lost, times=1)
    report = through(world, gateway).run([world.policy(rules=RULES)])
    assert not report.problems
    assert world.objects() == []


def test_a_store_lost_in_the_middle(world: World, gateway: proxy.Proxy) -> None:
    """Rows are gone and so are some objects; the others are in the journal, and the next run deletes them."""
    run = world.run(objects=0)
    where = world.stack.endpoints()
    filler = Filler(where.s3_endpoint, where.s3_bucket, where.s3_access_key, where.s3_secret_key)
    filler.put(f"{world.experiment}/{run}/artifacts/{n}" for n in range(1100))
    world.call("runs/delete", run_id=run)
    gateway.on(f"POST /{where.s3_bucket}", proxy.refused_by_reset, times=-1, skip=1)
    report = through(world, gateway).run([world.policy(rules=RULES)])
    assert report.problems
    assert not world.exists(run)
    assert 0 < len(world.objects()) < 1100
    assert unaccounted(world) == []
    assert not world.retain(rules=RULES).problems
    assert world.objects() == []


def refused(world: World, key: str, code: str) -> proxy.Fault:
    """The store deletes all keys of a request but this one, which it refuses."""

    def fault(exchange: proxy.Exchange) -> None:
        named = [k.decode() for k in re.findall(rb"<Key>([^<]*)</Key>", exchange.body)]
        now = datetime.datetime.now(datetime.UTC)
        assert not world.store.delete([Found(k, 0, now) for k in named if k != key])
        error = f"<Error><Key>{key}</Key><Code>{code}</Code><Message>fault</Message></Error>"
        body = f"<DeleteResult>{error if key in named else ''}</DeleteResult>"
        proxy.answer(200, body.encode(), "application/xml")(exchange)

    return fault


def test_a_single_key_that_is_refused_holds_nothing_up(world: World, gateway: proxy.Proxy) -> None:
    """It stays, with its journal entry and the store's reason; everything else goes."""
    held, other = world.run(), world.run()
    key = f"{world.experiment}/{held}/artifacts/folder/file-0"
    assert key in world.objects()
    for run in (held, other):
        world.call("runs/delete", run_id=run)
    bucket = f"/{world.stack.endpoints().s3_bucket}"
    gateway.on(f"POST {bucket}", refused(world, key, "InternalError"), times=1)
    gateway.on(f"POST {bucket}", refused(world, key, "AccessDenied"), times=-1)
    report = through(world, gateway).run([world.policy(rules=RULES)])
    # What passes is tried again at once; what does not, once more at the end, after the second look.
    assert gateway.count(f"POST {bucket}") == 3
    assert len(report.problems) == 1, "it is told once"
    assert f"{key}: AccessDenied" in report.problems[0]
    assert report.waiting == 1
    assert world.objects() == [key]
    states = dict(world.sql.execute("select id, state from mlplatform.purged where kind = 'run'").fetchall())
    assert (states[held], states[other]) == ("pending", "watched")
    assert not world.retain(rules=RULES).problems
    assert world.objects() == []


def test_keys_that_are_refused_wait_in_the_journal_until_their_date(world: World) -> None:
    """Object Lock refuses two versions: the others go, nothing else is held up, the date is told."""
    where = world.stack.endpoints()
    login = S3Login(where.s3_endpoint, "us-east-1", where.s3_access_key, where.s3_secret_key)
    bucket = f"locked-{time.time_ns()}"
    store = S3Store(f"s3://{bucket}", login, all_versions=True)
    store._client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    held, free = world.run(objects=0), world.run(objects=0)
    for run in (held, free):
        uri = f"s3://{bucket}/{world.experiment}/{run}/artifacts"
        world.sql.execute("update runs set artifact_uri = %s where run_uuid = %s", (uri, run))
        for name in ("a", "b"):
            store._client.put_object(
                Bucket=bucket, Key=f"{world.experiment}/{run}/artifacts/{name}", Body=b"1"
            )
        world.call("runs/delete", run_id=run)
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=20)
    store._client.put_object_retention(
        Bucket=bucket,
        Key=f"{world.experiment}/{held}/artifacts/a",
        Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until},
    )
    engine = Engine(world.database, Roots(world.store, [store]))
    policy = world.policy(rules={"runs": {"softDeletedFor": "0s"}}, versions="purge")
    report = engine.run([policy])
    assert report.problems
    assert report.waiting == 1
    assert [one.key.split("/")[1] for one in store.page("").found if one.key[0] != "."] == [held]
    assert world.one("select wait_until > now() from mlplatform.purged where id = %s", held)
    assert not engine.run([policy]).problems, "not asked again before its date"
    time.sleep(max(0.0, (until - datetime.datetime.now(datetime.UTC)).total_seconds() + 1))
    assert not engine.run([policy]).waiting
    assert [one.key for one in store.page("").found if one.key[0] != "."] == []


def test_an_unknown_schema_is_refused(world: World) -> None:
    from mlflow_platform.errors import BadInput

    run = world.run()
    world.call("runs/delete", run_id=run)
    revision = world.one("select version_num from alembic_version")
    world.sql.execute("update alembic_version set version_num = 'abc'")
    try:
        with pytest.raises(BadInput, match="schema is abc"):
            world.retain(rules=RULES)
        with pytest.raises(BadInput, match="schema is abc"):
            world.engine().plan([world.policy(rules=RULES)])
    finally:
        world.sql.execute("update alembic_version set version_num = %s", (revision,))
    assert world.exists(run)


def test_a_copied_database_deletes_nothing_of_the_original(world: World) -> None:
    """A copy (here: the same database, told that it is one) has another id than the marker in the root."""
    from mlflow_platform.errors import BadInput

    run = world.run()
    world.call("runs/delete", run_id=run)
    world.retain(rules={"runs": {"softDeletedFor": "900d"}})
    installation = "select id, cluster, copied_at from mlplatform.installation"
    original = world.sql.execute(installation).fetchone()
    assert original is not None
    world.sql.execute("update mlplatform.installation set cluster = 'another/1'")
    try:
        with pytest.raises(BadInput, match="belongs to the installation"):
            world.retain(rules=RULES)
        copy = world.sql.execute(installation).fetchone()
        assert copy is not None
        assert copy[0] != original[0]
        assert copy[2] is not None
        assert world.exists(run)
        assert len(world.objects()) == 2
    finally:
        world.sql.execute(
            "update mlplatform.installation set id = %s, cluster = %s, copied_at = %s", original
        )
    assert not world.retain(rules=RULES).problems
    assert world.objects() == []
