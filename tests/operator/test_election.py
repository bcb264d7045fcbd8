"""The Lease on a real API server: one holder at a time, taken over by the waiter's own clock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.adapters.election import Elector, NotLeading, Term, Timing, clock
from mlflow_platform.adapters.kubernetes import Cluster
from tests.operator.between import by_way_of
from tests.operator.running import Site, eventually

TIMING = Timing(lease=3.0, renew=1.5, retry=0.3)


@pytest.fixture
def electors(site: Site, request: pytest.FixtureRequest) -> Iterator[list[Elector]]:
    name = request.node.name.replace("_", "-")[:50]
    yield [
        Elector(Cluster.connect(site.control_plane.kubeconfig), "ops", name, f"replica-{i}", TIMING)
        for i in range(3)
    ]
    site.cluster.delete("coordination.k8s.io/v1", "Lease", "ops", name)


def lease(elector: Elector) -> dict[str, Any]:
    found = elector._cluster.get(*elector._place)
    assert found is not None
    return dict(found["spec"])


def acquired(elector: Elector) -> Term:
    term = elector.acquire(threading.Event())
    assert term is not None
    return term


def test_of_several_that_try_at_once_one_leads(electors: list[Elector]) -> None:
    terms: list[str] = []
    stop = threading.Event()

    def lead(elector: Elector) -> None:
        if elector.acquire(stop) is not None:
            terms.append(elector._identity)
            stop.set()

    threads = [threading.Thread(target=lead, args=(e,)) for e in electors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert terms == [lease(electors[0])["holderIdentity"]]


def test_a_term_ends_by_itself_when_it_is_not_renewed(electors: list[Elector]) -> None:
    first, second, _ = electors
    term = acquired(first)
    term.check()
    other = acquired(second)  # waits until the lease has not changed for its whole length
    assert term.over
    with pytest.raises(NotLeading, match="does not lead any more"):
        term.check()
    term.extend(clock() + 100)
    assert term.over, "a term that is over stays over"
    other.check()
    assert lease(second)["leaseTransitions"] == 1
    assert lease(second)["holderIdentity"] == "replica-1"


def test_a_kept_term_goes_on_and_ends_when_somebody_takes_the_lease(electors: list[Elector]) -> None:
    first, second, third = electors
    term = acquired(first)
    keeper = threading.Thread(target=first.keep, args=(term,))
    keeper.start()
    stop = threading.Event()
    waiting = threading.Thread(target=second.acquire, args=(stop,))
    waiting.start()
    before = lease(first)["renewTime"]
    eventually(lambda: lease(first)["renewTime"] != before, "it is renewed")
    eventually(lambda: clock() > second._seen_since + TIMING.lease or first.contact > 0, "time passes")
    assert not term.over
    stop.set()
    waiting.join(10)
    assert lease(first)["holderIdentity"] == "replica-0"

    found = first._cluster.get(*first._place)
    assert found is not None
    first._cluster.replace({**found, "spec": {**found["spec"], "holderIdentity": third._identity}})
    keeper.join(10)
    assert term.over


def test_a_lease_that_is_given_back_is_free_at_once(electors: list[Elector]) -> None:
    first, second, _ = electors
    term = acquired(first)
    term.end()
    second.release()  # not its own: nothing happens
    assert lease(first)["holderIdentity"] == "replica-0"
    first.release()
    assert lease(first)["holderIdentity"] == ""
    acquired(second)


def test_a_leader_whose_api_server_is_gone_stops_by_its_own_clock(
    electors: list[Elector], site: Site, tmp_path: Path
) -> None:
    first = electors[0]
    term = acquired(first)
    # Not by the connection's own settings: the Kubernetes client reads the host anew with the token.
    gone = Cluster.connect(by_way_of(site, "https://127.0.0.1:9", tmp_path).control_plane.kubeconfig)
    gone.patience = 0.2
    first._cluster = replace(gone, _kinds=first._cluster._kinds)
    first.keep(term)
    assert term.over
