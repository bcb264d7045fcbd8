"""kill -9 at every side effect in turn: the next operator comes to the same end."""

from __future__ import annotations

import signal

import pytest

from tests.operator.dying import SAID
from tests.operator.running import OPS, Json, Process, Site, document, eventually, experiment

#: Points of the sweep that every run of the tests takes; `make soak` takes all.
STEP = 7
HOOK = {"url": "https://192.0.2.1/hook", "events": ["prompt.created"]}
#: More side effects than there are.
MOST = 50


def documents(prefix: str) -> list[Json]:
    """Each kind that takes more than one request, an experiment that is already there, one that goes."""
    versions = [{"key": "one", "source": "s3://b/1"}, {"key": "two", "source": "s3://b/2"}]
    model = {"versions": versions, "aliases": {"champion": {"key": "two"}}, "deletionPolicy": "Delete"}
    prompt = {"versions": [{"key": "one", "template": f"Say {prefix}."}], "aliases": {"live": {"key": "one"}}}
    user = {"passwordSecretRef": {"name": "people", "key": "password"}}
    role = {
        "members": [f"{prefix}-user"],
        "permissions": [{"resourceType": "experiment", "resource": f"{prefix}-exp", "permission": "READ"}],
    }
    return [
        document("MLflowUser", f"{prefix}-user", user),
        experiment(
            f"{prefix}-exp", tags={"a": "b"}, grants=[{"user": f"{prefix}-user", "permission": "EDIT"}]
        ),
        document("RegisteredModel", f"{prefix}-model", model),
        document("Prompt", f"{prefix}-prompt", prompt),
        document("MLflowRole", f"{prefix}-role", role),
        document("Webhook", f"{prefix}-hook", HOOK),
    ]


def prepared(site: Site, prefix: str) -> list[Json]:
    """Documents for an operator that is not running yet; one that is there is being deleted, object and
    all."""
    site.delete("Experiment", f"{prefix}-old")
    wanted = documents(prefix)
    site.apply(*wanted)
    return wanted


def healed(site: Site, prefix: str, wanted: list[Json]) -> Json:
    """Let a new operator finish it; what there is then, without the prefix."""
    site.forget_leader()
    with site.running():
        for one in wanted:
            site.reach(one["kind"], one["metadata"]["name"], "Synced")
        site.gone("Experiment", f"{prefix}-old")
    assert site.experiment(f"{prefix}-old")["lifecycle_stage"] == "deleted"
    found: Json = {}
    params = {"max_results": 1000, "filter": f"name = '{prefix}-model'"}
    versions = site.api.call("GET", "api/2.0/mlflow/model-versions/search", params=params)["model_versions"]
    found["versions"] = sorted(v["source"] for v in versions)
    model = {"name": f"{prefix}-model"}
    aliases = site.api.call("GET", "api/2.0/mlflow/registered-models/get", params=model)["registered_model"]
    found["aliases"] = [a["alias"] for a in aliases["aliases"]]
    hooks = site.api.call("GET", "api/2.0/mlflow/webhooks", params={"max_results": 1000})["webhooks"]
    found["webhooks"] = sum(h["name"].startswith(prefix) for h in hooks)
    tags = site.experiment(f"{prefix}-exp")["tags"]
    found["tags"] = {k: v.replace(prefix, "P") for k, v in tags.items() if "mark" not in k}
    users = site.api.call("GET", "api/2.0/mlflow/users/list")["users"]
    (user,) = (u for u in users if u["username"] == f"{prefix}-user")
    found["permissions"] = sorted(p["permission"] for r in user["roles"] for p in r["permissions"])
    return found


def side_effects(process: Process, prefix: str) -> list[str]:
    """What it did to MLflow and in Kubernetes, in order."""
    lines = process.log.read_text().replace(prefix, "P").splitlines()
    return [line.removeprefix(SAID) for line in lines if line.startswith(SAID)]


def run_dying(site: Site, point: int, moment: str) -> Process:
    return site.start(str(point), moment, module="tests.operator.dying", environment={"PYTHONHASHSEED": "0"})


def sweep(site: Site, step: int, subtests: pytest.Subtests) -> None:
    """Kill at every `step`-th side effect. Before each is also after the one before it, since they come one
    after another."""
    site.secret(OPS, "people", password="correct horse battery staple")
    points = {f"ok-{number:03}": number for number in range(1, MOST, step)}
    with site.running():
        # With the first of its kind comes the ledger, once.
        site.apply(document("Webhook", "ok-first", HOOK))
        site.reach("Webhook", "ok-first", "Synced")
        prefixes = ["ok-clean", *points]
        site.apply(*(experiment(f"{prefix}-old", deletionPolicy="Delete") for prefix in prefixes))
        for prefix in prefixes:
            site.reach("Experiment", f"{prefix}-old", "Synced")
    wanted = prepared(site, "ok-clean")
    clean = run_dying(site, 10**9, "before")
    for one in wanted:
        site.reach(one["kind"], one["metadata"]["name"], "Synced")
    clean.another_round()  # the TrackingServer counts what is owned in its next round
    clean.end(signal.SIGTERM)
    every = side_effects(clean, "ok-clean")
    assert 20 < len(every) < MOST, every
    expected = healed(site, "ok-clean", wanted)
    for prefix, number in points.items():
        if number > len(every):
            break
        with subtests.test(point=number, side_effect=every[number - 1]):
            wanted = prepared(site, prefix)
            dying = run_dying(site, number, "before")
            eventually(lambda dying=dying: dying.process.poll() is not None, "it dies")
            assert dying.process.returncode == -signal.SIGKILL, dying.log.read_text()
            assert side_effects(dying, prefix) == every[:number]
            assert healed(site, prefix, wanted) == expected
    print(f"killed before {len(every[::step])} of {len(every)} side effects")


def test_killed_at_some_side_effects(site: Site, subtests: pytest.Subtests) -> None:
    sweep(site, STEP, subtests)


@pytest.mark.soak
def test_killed_at_every_side_effect(site: Site, subtests: pytest.Subtests) -> None:
    sweep(site, 1, subtests)
