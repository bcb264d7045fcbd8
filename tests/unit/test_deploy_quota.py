"""Whether a namespace's quotas and limits let a release in, as far as the objects tell."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_platform.deploy import quota
from tests.unit.test_chart_mlflow_platform import rendered

WANTED = [m.object for m in rendered("default")]


def quota_of(used: dict[str, str] | None = None, **hard: str) -> list[dict[str, Any]]:
    names = {k.replace("_", "."): v for k, v in hard.items()}
    return [{"metadata": {"name": "team"}, "spec": {"hard": names}, "status": {"used": used or {}}}]


def range_of(**limit: Any) -> list[dict[str, Any]]:
    return [{"metadata": {"name": "range"}, "spec": {"limits": [{"type": "Container", **limit}]}}]


def words(own: list[Any], quotas: list[Any], ranges: list[Any]) -> list[str]:
    return [p.what for p in quota.check(WANTED, own, quotas, ranges)]


def pod(cpu: str, memory: str, phase: str = "Running") -> dict[str, Any]:
    requests = {"cpu": cpu, "memory": memory}
    return {
        "kind": "Pod",
        "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]},
        "status": {"phase": phase},
    }


@pytest.mark.parametrize(
    ("hard", "said"),
    [
        # Two servers, Postgres, the store, and one more server while they are replaced.
        ({"pods": "5"}, []),
        ({"pods": "4"}, ["ResourceQuota team allows 4 pods, others use 0, the release needs 5"]),
        ({"requests_cpu": "950m"}, []),
        ({"cpu": "949m"}, ["ResourceQuota team allows 949m cpu, others use 0, the release needs 0.95"]),
        ({"requests_storage": "30Gi", "persistentvolumeclaims": "2"}, []),
        (
            {"requests_storage": "29Gi"},
            ["ResourceQuota team allows 29Gi requests.storage, others use 0, the release needs 30Gi"],
        ),
        ({"services": "1"}, []),
    ],
)
def test_a_quota_counts_all_that_is_there_at_once(hard: dict[str, str], said: list[str]) -> None:
    assert words([], quota_of(**hard), []) == said


def test_what_the_release_has_already_is_not_counted_twice() -> None:
    own = [pod("950m", "1Gi"), pod("9", "1Gi", phase="Succeeded")]
    assert words(own, quota_of({"requests.cpu": "1"}, requests_cpu="1"), []) == []
    assert words([], quota_of({"requests.cpu": "1"}, requests_cpu="1"), []) == [
        "ResourceQuota team allows 1 requests.cpu, others use 1, the release needs 0.95"
    ]


def test_a_quota_that_counts_what_nobody_names_refuses_every_pod() -> None:
    (said,) = words([], quota_of(limits_cpu="100"), [])
    assert said.startswith("ResourceQuota team counts limits.cpu, which Deployment/mlflow-server, ")
    assert words([], quota_of(limits_cpu="100"), range_of(default={"cpu": "1"})) == []


def test_a_range_is_held_against_every_container() -> None:
    assert words([], [], range_of(max={"memory": "2Gi"}, min={"memory": "16Mi"})) == []
    said = words([], [], range_of(max={"memory": "1Gi"}))
    assert said == [
        "LimitRange range allows 1Gi memory, Deployment/mlflow-server's container server asks for 1.5Gi"
    ]
    assert any("wants 1 cpu" in s for s in words([], [], range_of(min={"cpu": "1"})))


def test_a_quota_of_some_class_of_pods_is_none_of_ours() -> None:
    found = quota_of(pods="0")
    found[0]["spec"]["scopes"] = ["BestEffort"]
    assert words([], found, []) == []
