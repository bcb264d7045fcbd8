"""kube-apiserver, etcd and MLflow, each killed with SIGKILL and started again while documents are applied."""

from __future__ import annotations

import os
import signal

import pytest
import urllib3

from tests.operator.load import Load
from tests.operator.running import Site, eventually, experiment

#: Long enough to be killed in, at the 20 documents or so that the API server is given in a second.
COUNT = 60


def back(site: Site) -> None:
    eventually(lambda: site.control_plane.answers, "the API server answers")


@pytest.mark.parametrize("name", ["kube-apiserver", "etcd"])
def test_killed_and_started_again_under_load(site: Site, name: str) -> None:
    load = Load(site, f"k-{name}", COUNT)
    with site.running() as operator:
        with load.being_applied():
            site.control_plane.kill(name)
            assert not site.control_plane.answers
            site.control_plane.start(name)
            back(site)
        load.converges()
        assert operator.process.poll() is None, operator.log.read_text()


def test_mlflow_killed_under_load(site: Site) -> None:
    load = Load(site, "k-mlflow", COUNT)
    victim = _pid(site)
    assert victim is not None
    with site.running():
        with load.being_applied():
            os.kill(victim, signal.SIGKILL)  # the stack's supervisor starts it again
            eventually(lambda: site.stack.status().healthy and _pid(site) != victim, "MLflow is back")
        load.converges()


def _pid(site: Site) -> int | None:
    return next(p.pid for p in site.stack.status().processes if p.name == "mlflow")


def compact(site: Site) -> None:
    """Have etcd forget all but the latest revision."""
    http, at = urllib3.PoolManager(), site.control_plane.etcd
    answer = http.request("POST", f"{at}/v3/kv/range", json={"key": "AA=="})
    revision = answer.json()["header"]["revision"]
    answer = http.request("POST", f"{at}/v3/kv/compaction", json={"revision": revision, "physical": True})
    assert answer.status == 200, answer.data


def test_watches_of_a_version_that_etcd_has_compacted_away(site: Site) -> None:
    """An operator that slept: the API server has started anew meanwhile and knows nothing so old (410)."""
    site.apply(experiment("compacted-goes"))
    with site.running(interval=600) as operator:
        site.reach("Experiment", "compacted-goes", "Synced")
        operator.process.send_signal(signal.SIGSTOP)
        site.apply(*(experiment(f"compacted-{i}") for i in range(5)))
        site.delete("Experiment", "compacted-goes")
        site.control_plane.kill("kube-apiserver")
        site.control_plane.start("kube-apiserver")
        back(site)
        site.apply(experiment("compacted-5"))
        compact(site)
        operator.process.send_signal(signal.SIGCONT)
        too_old = "the watch of Experiment is too old (410 Gone)"
        eventually(lambda: too_old in operator.log.read_text(), "410 Gone")
        for i in range(6):
            site.reach("Experiment", f"compacted-{i}", "Synced")
        # No full round comes any more: the watches that follow the new lists deliver.
        site.apply(experiment("compacted-6"))
        site.reach("Experiment", "compacted-6", "Synced")
