"""A process that is killed at each of its side effects about CronJobs in turn: the next one comes to the same
end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlflow_platform.adapters.election import Term, clock
from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.model.base import API_VERSION
from mlflow_platform.operator.cache import Cache
from mlflow_platform.operator.metrics import Metrics
from mlflow_platform.operator.publishing import Publisher
from mlflow_platform.operator.schedules import JobTemplate
from mlflow_platform.operator.scheduling import ScheduleLoop
from mlflow_platform.operator.tasks import TASKS
from tests.operator.running import OPS, Json, Site, document

NOBODY = 0


class Killed(BaseException):
    """Instead of SIGKILL: what was in memory is gone, and nothing is tidied up."""


class Life:
    """One process. It ends before or after its n-th side effect."""

    def __init__(
        self, site: Site, template: JobTemplate, number: int = NOBODY, *, after: bool = False
    ) -> None:
        self.done = 0
        cluster = Cluster.connect(site.control_plane.kubeconfig)
        ask: Callable[..., Any] = cluster._request

        def request(method: str, path: str, **more: Any) -> Any:
            if method == "GET" or "dryRun" in (more.get("query") or {}):
                return ask(method, path, **more)
            self.done += 1
            if self.done == number and not after:
                raise Killed
            answer = ask(method, path, **more)
            if self.done == number:
                raise Killed
            return answer

        cluster._request = request  # type: ignore[method-assign] # that is the point
        metrics = Metrics()
        cache = Cache(cluster, metrics)
        self._loop = ScheduleLoop(
            *(cluster, cache, Publisher(cluster, cache, metrics), Term(clock() + 600), metrics),
            operator=f"{OPS}/mlflow",
            template=template,
            interval=600,
        )

    def round(self) -> int:
        """How many side effects it had."""
        before = self.done
        assert self._loop._round(whole=True)
        return self.done - before


def backup(**spec: Any) -> Json:
    key = {"name": "backups", "key": "key"}
    destination = {"uri": "s3://b/x", "accessKeySecretRef": key, "secretKeySecretRef": key}
    return document("BackupSchedule", "killed", {"destination": destination, "schedule": "@daily", **spec})


DRILL = {"schedule": "0 5 * * 0"}
STEPS: dict[str, tuple[Json | None, Json | None, int]] = {
    "made": (None, backup(drill=DRILL), 4),
    "changed": (backup(drill=DRILL), backup(drill=DRILL, keep={"last": 2}, suspend=True), 4),
    "less": (backup(drill=DRILL), backup(), 3),
    "gone": (backup(drill=DRILL), None, 3),
}


def state(site: Site) -> Json:
    """What there is for documents, and what these say; without what differs between two of the same."""
    found: Json = {}
    for kind in ("ConfigMap", "CronJob"):
        api_version = "v1" if kind == "ConfigMap" else "batch/v1"
        for one in site.cluster.find(api_version, kind, OPS, {"mlplatform.io/scheduled-by": "mlflow"}):
            metadata = one["metadata"]
            owners = [(o["kind"], o["name"]) for o in metadata["ownerReferences"]]
            found[f"{kind}/{metadata['name']}"] = [owners, one.get("spec"), one.get("data")]
    status = site.find("BackupSchedule", "killed").get("status", {})
    conditions = [(c["type"], c["reason"]) for c in status.get("conditions", ())]
    return {**found, "status": [conditions, status.get("cronJob"), status.get("drillCronJob")]}


def begin(site: Site, template: JobTemplate, one: Json | None, following: Json | None) -> None:
    """As the first document asks, and then the second one is there."""
    site.delete("BackupSchedule", "killed")
    if one is not None:
        site.apply(one)
    Life(site, template).round()
    if following is None:
        site.delete("BackupSchedule", "killed")
    else:
        # As `kubectl replace`: a field that is left out goes.
        now = site.find("BackupSchedule", "killed")
        if now:
            site.cluster.replace({**now, "spec": following["spec"]})
        else:
            site.apply(following)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_every_side_effect(site: Site, template: Any, step: str) -> None:
    for kind in TASKS:  # those of other tests, whose operators have ended
        for left in site.cluster.find(API_VERSION, kind, OPS):
            site.delete(kind, left["metadata"]["name"])
    read = JobTemplate.read(template)
    one, following, least = STEPS[step]
    begin(site, read, one, following)
    count = Life(site, read).round()
    assert count >= least
    expected = state(site)
    assert len(expected) == 1 + (0 if following is None else 2 + ("drill" in following["spec"]))
    for number in range(1, count + 1):
        for after in (False, True):
            begin(site, read, one, following)
            with pytest.raises(Killed):
                Life(site, read, number, after=after).round()
            heir = Life(site, read)
            heir.round()
            assert state(site) == expected, (number, after)
            assert heir.round() == 0
    site.delete("BackupSchedule", "killed")
    Life(site, read).round()
