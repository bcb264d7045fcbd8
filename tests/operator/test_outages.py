"""The API server or MLflow away for a while, and connections that are there and deliver nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.operator.between import Forwarder, by_way_of
from tests.operator.running import OPS, Site, eventually, experiment


@pytest.fixture
def api(site: Site, tmp_path: Path) -> Iterator[tuple[Site, Forwarder]]:
    """The site by a way to the API server that can be cut."""
    at = urlsplit(site.cluster.address)
    forwarder = Forwarder(at.hostname or "", at.port or 443)
    yield by_way_of(site, f"https://127.0.0.1:{forwarder.port}", tmp_path), forwarder
    forwarder.close()
    site.forget_leader()


def test_the_api_server_away_under_load(site: Site, api: tuple[Site, Forwarder]) -> None:
    disturbed, forwarder = api
    names = [f"away-{i:02}" for i in range(40)]
    site.apply(*(experiment(name) for name in names))
    with disturbed.running() as process:
        eventually(lambda: process.metric("patches_total") > 5, "it is at work")
        for _ in range(3):
            forwarder.cut()
            time.sleep(1.5)
            forwarder.mend()
            time.sleep(0.5)
        forwarder.cut()
        eventually(lambda: not process.leading, "it stops to lead")
        site.apply(experiment("away-later"))
        forwarder.mend()
        for name in [*names, "away-later"]:
            site.reach("Experiment", name, "Synced")


@pytest.mark.soak
def test_connections_that_deliver_nothing(site: Site, api: tuple[Site, Forwarder]) -> None:
    disturbed, forwarder = api
    with disturbed.running() as process:
        process.another_round()
        forwarder.freeze()
        site.apply(experiment("frozen"))
        site.reach("Experiment", "frozen", "Synced")


def test_mlflow_away_and_back(site: Site, tmp_path: Path) -> None:
    at = urlsplit(site.stack.endpoints().tracking_uri)
    forwarder = Forwarder(at.hostname or "", at.port or 80)
    site.server("shaky", trackingUri=f"http://127.0.0.1:{forwarder.port}")
    try:
        with site.running() as process:
            site.apply(experiment("steady", server="shaky", tags={"a": "b"}))
            site.reach("Experiment", "steady", "Synced")
            patches = site.find("Experiment", "steady")["metadata"]["resourceVersion"]
            forwarder.cut()
            site.reach("TrackingServer", "shaky", "ServerUnavailable", namespace="")
            assert site.find("Experiment", "steady")["metadata"]["resourceVersion"] == patches
            site.apply(experiment("meanwhile", server="shaky"), experiment("elsewhere"))
            site.reach("Experiment", "elsewhere", "Synced")  # other servers go on
            site.reach("Experiment", "meanwhile", "ServerUnavailable")
            site.set_tag("steady", "a", "by hand")
            forwarder.mend()
            site.reach("TrackingServer", "shaky", "Connected", namespace="")
            site.reach("Experiment", "meanwhile", "Synced")
            eventually(lambda: site.experiment("steady")["tags"]["a"] == "b", "drift is corrected")
            assert "Traceback" not in process.log.read_text()
    finally:
        forwarder.close()
        for name in ("steady", "meanwhile"):
            site.delete("Experiment", name, OPS)
        site.delete("TrackingServer", "shaky", "")
