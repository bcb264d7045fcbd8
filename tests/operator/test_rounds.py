"""What a full round says of documents whose object a scoped round has looked after meanwhile."""

from __future__ import annotations

import time

from mlflow_platform.adapters.election import Term, clock
from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.operator.cache import Cache
from mlflow_platform.operator.metrics import Metrics
from mlflow_platform.operator.publishing import Publisher
from mlflow_platform.operator.reconciling import Reconciler
from mlflow_platform.operator.rounds import Site as Shared
from tests.operator.running import OPS, Site, experiment


def test_a_document_whose_change_was_left_to_a_scoped_round_does_not_say_that_it_is_carried_out(
    site: Site,
) -> None:
    """The older of two about one object has vanished: a scoped round looks after that, the full one makes
    the object what the younger one says."""
    cluster = Cluster.connect(site.control_plane.kubeconfig)
    metrics = Metrics()
    cache = Cache(cluster, metrics)
    publisher, term = Publisher(cluster, cache, metrics), Term(clock() + 600)
    shared = Shared(cache, publisher, cluster, "k8s:rounds", OPS, f"{OPS}/mlflow", term, metrics)
    reconciler = Reconciler("rounds", shared)
    site.server("rounds")
    try:
        site.apply(experiment("older", server="rounds", name="contested-by-two", tags={"of": "older"}))
        time.sleep(1.1)  # creation times are whole seconds
        site.apply(experiment("younger", server="rounds", name="contested-by-two", tags={"of": "younger"}))
        reconciler.look()()
        older = next(e.origin for e in cache.of_server("rounds") if e.name == "older")
        younger = next(e.origin for e in cache.of_server("rounds") if e.name == "younger")
        assert site.condition("Experiment", "younger", OPS)["reason"] == "Conflict"

        site.delete("Experiment", "older")
        finish = reconciler.look()
        reconciler.scoped([older])
        ended = finish()
        assert site.experiment("contested-by-two")["tags"]["of"] == "older", "left to the scoped round"
        assert site.condition("Experiment", "younger", OPS)["reason"] == "Conflict"
        assert ended.again == {younger}
        assert not reconciler.scoped(ended.again).again
        assert site.experiment("contested-by-two")["tags"]["of"] == "younger"
        assert site.condition("Experiment", "younger", OPS)["reason"] == "Synced"
    finally:
        site.delete("Experiment", "younger")
        site.delete("TrackingServer", "rounds", "")
