"""Two replicas, one leader: killed, paused, and ended in mid-write. Nothing is made twice or left out."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from mlflow_platform.model.base import API_VERSION
from tests.operator.running import OPS, Json, Process, Site, document, eventually, experiment

COUNT = 150
#: Requests to MLflow under way at once: the default of TrackingServer.spec.concurrency.
IN_FLIGHT = 8


@pytest.fixture
def replicas(site: Site) -> Iterator[list[Process]]:
    """Processes that the test starts; ended in every case."""
    started: list[Process] = []
    yield started
    for process in started:
        process.end(signal.SIGKILL)
    site.forget_leader()


def documents(prefix: str) -> list[Json]:
    """Documents of kinds that MLflow would let be made twice, and many that take a while."""
    version = {"versions": [{"key": "k", "source": "s3://b/k"}], "aliases": {"champion": {"key": "k"}}}
    prompt = {"versions": [{"key": "k", "template": f"Say {prefix}."}]}
    hook = {"url": "https://192.0.2.1/hook", "events": ["prompt.created"]}
    found = [experiment(f"{prefix}-{i:03}", tags={"a": "b"}) for i in range(COUNT)]
    for i in range(5):
        found.append(document("RegisteredModel", f"{prefix}-model-{i}", version))
        found.append(document("Prompt", f"{prefix}-prompt-{i}", prompt))
        found.append(document("Webhook", f"{prefix}-hook-{i}", hook))
    return found


def made(site: Site, prefix: str) -> int:
    """How many experiments there are whose names begin so."""
    body = {"max_results": 50_000, "view_type": "ALL", "filter": f"name LIKE '{prefix}%'"}
    return len(site.api.call("POST", "api/2.0/mlflow/experiments/search", json=body).get("experiments", ()))


def all_ready(site: Site, prefix: str) -> bool:
    found = [
        item
        for kind in ("Experiment", "RegisteredModel", "Prompt", "Webhook")
        for item in site.cluster.find(API_VERSION, kind, OPS)
        if item["metadata"]["name"].startswith(prefix)
    ]
    assert len(found) == COUNT + 15
    ready = [
        c["status"]
        for item in found
        for c in item.get("status", {}).get("conditions", ())
        if c["type"] == "Ready"
    ]
    return ready == ["True"] * len(found)


def nothing_doubled(site: Site, prefix: str) -> None:
    assert made(site, prefix) == COUNT
    params = {"max_results": 1000, "filter": f"name LIKE '{prefix}-model%'"}
    versions = site.api.call("GET", "api/2.0/mlflow/model-versions/search", params=params)["model_versions"]
    assert sorted(v["name"] for v in versions) == [f"{prefix}-model-{i}" for i in range(5)]
    hooks = site.api.call("GET", "api/2.0/mlflow/webhooks", params={"max_results": 1000})["webhooks"]
    mine = sorted(h["name"] for h in hooks if h["name"].startswith(prefix))
    assert mine == [f"{prefix}-hook-{i}" for i in range(5)]


def in_the_middle(site: Site, replicas: list[Process], prefix: str) -> tuple[Process, Process]:
    """A leader that has made some of the objects and not all, and a standby, which is ready."""
    site.apply(*documents(prefix))
    leader = site.start()
    replicas.append(leader)
    eventually(lambda: leader.leading, "leading")
    standby = site.start()
    replicas.append(standby)
    eventually(lambda: made(site, prefix) > 10, "the first are made")
    return leader, standby


def test_a_killed_leader_is_followed_and_nothing_is_doubled(site: Site, replicas: list[Process]) -> None:
    leader, standby = in_the_middle(site, replicas, "killed")
    leader.end(signal.SIGKILL)
    eventually(lambda: standby.leading, "the standby leads")
    eventually(lambda: all_ready(site, "killed"), "all are ready")
    nothing_doubled(site, "killed")


def test_a_paused_leader_that_wakes_up_sends_no_more_than_was_on_its_way(
    site: Site, replicas: list[Process]
) -> None:
    leader, standby = in_the_middle(site, replicas, "paused")
    leader.process.send_signal(signal.SIGSTOP)
    eventually(lambda: standby.ask("/readyz") == (200, "ok"), "the standby is ready")
    at_pause = made(site, "paused")
    assert 0 < at_pause < COUNT, "it was paused too late to show anything"
    eventually(lambda: standby.leading, "the standby leads")
    assert standby.ask("/readyz") == (200, "ok")
    eventually(lambda: all_ready(site, "paused"), "all are ready")

    leader.process.send_signal(signal.SIGCONT)
    eventually(lambda: not leader.leading, "the old leader knows that it leads no more")
    sent = leader.metric("requests_total", 'kind="writes"')
    assert 0 < sent <= at_pause + IN_FLIGHT
    standby.another_round()
    assert leader.metric("requests_total", 'kind="writes"') == sent
    assert leader.ask("/readyz") == (200, "ok")
    assert leader.process.poll() is None
    assert standby.leading
    nothing_doubled(site, "paused")


@pytest.mark.soak
def test_a_leader_that_is_ended_gives_the_lease_back(site: Site, replicas: list[Process]) -> None:
    leader, standby = in_the_middle(site, replicas, "ended")
    leader.end(signal.SIGTERM)
    assert leader.process.returncode == 0, leader.log.read_text()
    eventually(lambda: standby.leading, "the standby leads")
    eventually(lambda: all_ready(site, "ended"), "all are ready")
    nothing_doubled(site, "ended")
