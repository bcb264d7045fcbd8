"""What is declared, kept current: 410 Gone, a watch that never delivers, answers out of order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.errors import Rejected
from mlflow_platform.model.base import API_VERSION
from mlflow_platform.operator.cache import Cache
from mlflow_platform.operator.entries import Entry
from mlflow_platform.operator.metrics import Metrics
from tests.operator.running import OPS, Site, eventually, experiment


class Old(Cluster):
    """A connection whose first watches begin at a version that the API server has forgotten."""

    left = 3

    def watch(self, api_version: str, kind: str, version: str, **options: Any) -> Iterator[Any]:
        if kind == "Experiment" and self.left:
            self.left -= 1
            version = "1"
        return super().watch(api_version, kind, version, **options)


class Silent(Cluster):
    """A connection whose watches deliver nothing, as behind a proxy that has lost them."""

    def watch(self, api_version: str, kind: str, version: str, **options: Any) -> Iterator[Any]:
        time.sleep(1)
        yield from ()


def connected(site: Site, kind: type[Cluster]) -> Cluster:
    found = kind.connect(site.control_plane.kubeconfig)
    found.patience = 5
    return found


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def has(cache: Cache, name: str) -> bool:
    return any(e.name == name for e in cache.of_server("default"))


def test_the_api_server_says_410_for_a_version_it_forgot(site: Site) -> None:
    site.apply(experiment("cached-0"))
    with pytest.raises(Rejected) as caught:
        list(site.cluster.watch(API_VERSION, "Experiment", "1", seconds=1))
    assert caught.value.code == "410"


def test_after_410_everything_is_listed_and_the_watch_goes_on(site: Site, stop: threading.Event) -> None:
    old = connected(site, Old)
    cache = Cache(old, Metrics())
    cache.watch(stop)
    eventually(lambda: old.left == 0, "three watches that are too old")  # type: ignore[attr-defined]
    site.apply(experiment("cached-1"))
    eventually(lambda: has(cache, "cached-1"), "the watch delivers")
    site.delete("Experiment", "cached-1")
    eventually(lambda: not has(cache, "cached-1"), "the watch delivers a deletion")


def test_a_watch_that_never_delivers_is_made_up_for_by_lists(site: Site, stop: threading.Event) -> None:
    cache = Cache(connected(site, Silent), Metrics())
    cache.watch(stop)
    cache.refresh(time.monotonic())
    changed: list[tuple[Entry | None, Entry | None]] = []
    cache.changed = lambda before, after: changed.append((before, after))
    site.apply(experiment("cached-2"))
    cache.refresh(time.monotonic())
    assert has(cache, "cached-2")
    site.delete("Experiment", "cached-2")
    cache.refresh(time.monotonic())
    assert not has(cache, "cached-2")
    mine = [(b is not None, a is not None) for b, a in changed if (a or b).name == "cached-2"]  # type: ignore[union-attr]
    assert mine == [(False, True), (True, False)]


def test_an_older_answer_takes_nothing_back(site: Site) -> None:
    cache = Cache(site.cluster, Metrics())
    site.apply(experiment("cached-3", tags={"a": "1"}))
    first = site.find("Experiment", "cached-3")
    site.apply(experiment("cached-3", tags={"a": "2"}))
    second = site.find("Experiment", "cached-3")
    cache.put("Experiment", second)
    assert cache.put("Experiment", first).version == int(second["metadata"]["resourceVersion"])
    cache._take("Experiment", "DELETED", second)
    cache.put("Experiment", first)
    assert not has(cache, "cached-3")


def test_only_what_asks_for_work_is_told(site: Site) -> None:
    cache = Cache(site.cluster, Metrics())
    told: list[str] = []
    cache.changed = lambda before, after: told.append((after or before).name)  # type: ignore[union-attr]
    site.apply(experiment("cached-4"))
    cache.put("Experiment", site.find("Experiment", "cached-4"))
    assert told == ["cached-4"]
    status = {"status": {"observedGeneration": 1}}
    site.cluster.patch(API_VERSION, "Experiment", OPS, "cached-4", status, subresource="status")
    cache.put("Experiment", site.find("Experiment", "cached-4"))
    assert told == ["cached-4"]
    assert cache.of_server("default")[0].status == {"observedGeneration": 1}
