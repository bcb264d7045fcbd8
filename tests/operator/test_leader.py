"""Two replicas, one leader: killed, paused, and ended in mid-write. Nothing is made twice or left out."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.operator.load import Load
from tests.operator.running import Process, Site, eventually

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


def in_the_middle(site: Site, replicas: list[Process], prefix: str) -> tuple[Load, Process, Process]:
    """A leader that has made some of the objects and not all, and a standby, which is ready."""
    load = Load(site, prefix, COUNT)
    load.apply()
    leader = site.start()
    replicas.append(leader)
    eventually(lambda: leader.leading, "leading")
    standby = site.start()
    replicas.append(standby)
    eventually(lambda: load.made() > 10, "the first are made")
    return load, leader, standby


def test_a_killed_leader_is_followed_and_nothing_is_doubled(site: Site, replicas: list[Process]) -> None:
    load, leader, standby = in_the_middle(site, replicas, "killed")
    leader.end(signal.SIGKILL)
    assert load.made() < COUNT, "it was killed too late to show anything"
    with standby.always_ready():
        eventually(lambda: standby.leading, "the standby leads")
        load.converges()


def test_a_paused_leader_that_wakes_up_sends_no_more_than_was_on_its_way(
    site: Site, replicas: list[Process]
) -> None:
    load, leader, standby = in_the_middle(site, replicas, "paused")
    leader.process.send_signal(signal.SIGSTOP)
    with standby.always_ready():
        at_pause = load.made()
        assert 0 < at_pause < COUNT, "it was paused too late to show anything"
        eventually(lambda: standby.leading, "the standby leads")
        load.converges()

        leader.process.send_signal(signal.SIGCONT)
        eventually(lambda: not leader.leading, "the old leader knows that it leads no more")
        sent = leader.metric("requests_total", 'kind="writes"')
        assert 0 < sent <= at_pause + IN_FLIGHT
        standby.another_round()
    assert leader.metric("requests_total", 'kind="writes"') == sent
    assert leader.ask("/readyz") == (200, "ok")
    assert leader.process.poll() is None
    assert standby.leading
    load.converges()


@pytest.mark.soak
def test_a_leader_that_is_ended_gives_the_lease_back(site: Site, replicas: list[Process]) -> None:
    load, leader, standby = in_the_middle(site, replicas, "ended")
    leader.end(signal.SIGTERM)
    assert leader.process.returncode == 0, leader.log.read_text()
    eventually(lambda: standby.leading, "the standby leads")
    load.converges()
