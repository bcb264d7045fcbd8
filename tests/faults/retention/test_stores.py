"""Retention on a store that throttles, loses answers, is lost in the middle, or refuses single keys."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from mlflow_platform.adapters.object_store import Found
from mlflow_platform.adapters.s3 import S3Login, S3Store
from mlflow_platform.local import Stack
from mlflow_platform.retention.engine import Engine
from mlflow_platform.retention.roots import Roots
from tests.bench.fill import Filler
from tests.faults import proxy
from tests.faults.retention.conftest import RULES, unaccounted
from tests.retention.conftest import World


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
