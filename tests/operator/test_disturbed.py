"""Proxies between the operator and its servers: watches that never deliver, and throttling."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.operator.between import SILENCE, Disturb, Proxy, Refusal, by_way_of
from tests.operator.load import Load
from tests.operator.running import OPS, Site, eventually, experiment

COUNT = 30
#: In seconds. Longer than the pause where a server names none.
RETRY_AFTER = 2


def throttled(seconds: int) -> Refusal:
    body = b'{"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slow down"}'
    return Refusal(429, {"retry-after": str(seconds)}, body)


Start = Callable[[str, Disturb], Proxy]


@pytest.fixture
def proxied(site: Site) -> Iterator[Start]:
    """Start a proxy in front of an address."""
    proxies: list[Proxy] = []

    def start(upstream: str, disturb: Disturb) -> Proxy:
        authority = site.cluster.client.configuration.ssl_ca_cert if upstream.startswith("https") else None
        proxies.append(Proxy(upstream, disturb, authority))
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.close()
    site.forget_leader()


def every(count: int, answer: Refusal, refused: Callable[[str, str], bool]) -> Disturb:
    """Refuse every so many of those requests."""
    numbers, lock = itertools.count(1), threading.Lock()

    def disturb(method: str, target: str) -> Refusal | None:
        if not refused(method, target):
            return None
        with lock:
            return answer if next(numbers) % count == 0 else None

    return disturb


def test_watches_that_never_deliver(site: Site, proxied: Start, tmp_path: Path) -> None:
    proxy = proxied(site.cluster.address, lambda _, target: SILENCE if "watch=true" in target else None)
    with by_way_of(site, proxy.address, tmp_path).running():
        site.apply(experiment("unseen", deletionPolicy="Delete", tags={"a": "1"}))
        site.reach("Experiment", "unseen", "Synced")
        site.apply(experiment("unseen", deletionPolicy="Delete", tags={"a": "2"}))
        site.reach("Experiment", "unseen", "Synced")
        assert site.experiment("unseen")["tags"]["a"] == "2"
        site.delete("Experiment", "unseen")
        site.gone("Experiment", "unseen")
        assert site.experiment("unseen")["lifecycle_stage"] == "deleted"
    assert any("/experiments?watch=true" in target for _, _, target, _ in proxy.seen)


def test_a_throttling_api_server(site: Site, proxied: Start, tmp_path: Path) -> None:
    """Every tenth request is refused, the Lease's too; what is refused is asked again when it may be."""
    disturb = every(10, throttled(RETRY_AFTER), lambda _, target: "watch=true" not in target)
    proxy = proxied(site.cluster.address, disturb)
    load = Load(site, "slow-api", COUNT)
    with by_way_of(site, proxy.address, tmp_path).running() as operator, load.being_applied():
        load.converges()
        assert operator.process.poll() is None
    patches = [(when, target, status) for when, method, target, status in proxy.seen if method == "PATCH"]
    refused = [(when, target) for when, target, status in patches if status == 429]
    assert refused
    for when, target in refused:
        again = min((w for w, t, _ in patches if t == target and w > when), default=None)
        assert again is None or again - when >= RETRY_AFTER, target


def test_a_throttling_mlflow(site: Site, proxied: Start) -> None:
    """Each time, all that the operator sends this server waits as long as it asks for."""
    uri = site.stack.endpoints().tracking_uri
    proxy = proxied(uri, every(20, throttled(1), lambda _, __: True))
    site.server("throttling", trackingUri=proxy.address)
    load = Load(site, "slow-mlflow", COUNT, server="throttling")
    try:
        with site.running(), load.being_applied():
            load.converges()
    finally:
        for one in load.documents():
            site.delete(one["kind"], one["metadata"]["name"], OPS)
        site.delete("TrackingServer", "throttling", "")
    assert sum(status == 429 for _, _, _, status in proxy.seen) >= 3


def test_changed_documents_do_not_wait_for_the_lists_of_a_full_round(site: Site, proxied: Start) -> None:
    """A list that takes long, and what is made, changed and deleted meanwhile: the full round spoils none.

    Full rounds come by changes of the TrackingServer only; one that changes during a round has another one.
    """
    holding, held, released = threading.Event(), threading.Event(), threading.Event()

    def hold(_: str, target: str) -> None:
        if holding.is_set() and target.endswith("/experiments/search"):
            held.set()
            released.wait(60)

    proxy = proxied(site.stack.endpoints().tracking_uri, hold)
    site.server("slow", trackingUri=proxy.address)
    site.apply(experiment("slow-changed", server="slow", tags={"a": "1"}))
    names = ["slow-changed", "slow-made", "slow-deleted"]
    try:
        with site.running(interval=600) as operator:

            def rounds() -> float:
                return operator.metric("rounds_total", 'scope="full"', 'server="slow"', 'result="ok"')

            site.reach("Experiment", "slow-changed", "Synced")
            holding.set()
            site.server("slow", trackingUri=proxy.address, concurrency=4)
            assert held.wait(60)
            before = rounds()
            site.apply(
                experiment("slow-changed", server="slow", tags={"a": "2"}),
                experiment("slow-made", server="slow"),
                experiment("slow-deleted", server="slow", deletionPolicy="Delete"),
            )
            for name in names:
                site.reach("Experiment", name, "Synced")
            site.delete("Experiment", "slow-deleted")
            site.gone("Experiment", "slow-deleted")
            site.server("slow", trackingUri=proxy.address, concurrency=5)
            assert rounds() == before, "the list is still held"

            holding.clear()
            released.set()
            for count in (1, 2):  # the one that was held, and one that sees it all
                eventually(lambda count=count: rounds() >= before + count, "a full round")
                found = [site.experiment(name) for name in names]
                assert [f["lifecycle_stage"] for f in found] == ["active", "active", "deleted"]
                assert found[0]["tags"]["a"] == "2"
                assert all("mlplatform.io/mark" in f["tags"] for f in found)
    finally:
        released.set()
        for name in names:
            site.delete("Experiment", name, OPS)
        site.delete("TrackingServer", "slow", "")
