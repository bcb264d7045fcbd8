"""A plan of a few objects among many: the same as their part of the whole plan, without any list of all."""

from __future__ import annotations

from mlflow_platform.plan.objects import Action, Key
from tests.contract.access_loop import Folder, Json, document, unique

pytest_plugins = ("tests.contract.access_fixtures",)


def documents(stem: str, tag: str) -> list[Json]:
    versions = [{"key": "one", "source": f"s3://b/{stem}"}]
    model = {"versions": versions, "aliases": {"champion": {"key": "one"}}, "tags": {"t": tag}}
    return [
        document("Experiment", f"{stem}-e", tags={"t": tag}),
        document("RegisteredModel", f"{stem}-m", **model),
        document("Prompt", f"{stem}-p", versions=[{"key": "one", "template": stem}], tags={"t": tag}),
    ]


def keys(stem: str) -> frozenset[Key]:
    found = (("Experiment", "e"), ("RegisteredModel", "m"), ("Prompt", "p"))
    return frozenset(Key(kind, "default", f"{stem}-{end}") for kind, end in found)


def test_it_sees_what_the_whole_plan_sees_of_them_and_lists_nothing(folder: Folder) -> None:
    here, other = unique("scoped"), unique("scoped")
    folder.succeed(*documents(here, "a"), *documents(other, "a"))
    changed = documents(here, "b")
    whole = {c.key: c for c in folder.plan(*changed, prune=False).changes}
    folder.api.take()
    plan = folder.plan(*changed, only=keys(here))
    assert {c.key: c for c in plan.changes} == whole
    assert {c.key for c in plan.changes} == keys(here)
    requests = folder.api.take()
    assert "POST api/2.0/mlflow/experiments/search" not in requests
    assert "GET api/2.0/mlflow/registered-models/search" not in requests
    assert folder.plan(*documents(here, "a"), only=keys(here)).empty


def test_it_gives_up_what_it_is_about_and_nothing_else(folder: Folder) -> None:
    here, other = unique("scoped"), unique("scoped")
    folder.succeed(*documents(here, "a"), *documents(other, "a"))
    plan = folder.plan(only=keys(here))
    assert {(c.action, c.key) for c in plan.changes} == {(Action.FORGET, key) for key in keys(here)}
    missing = folder.plan(*documents(unique("scoped"), "a"), only=keys("scoped-of-nobody"))
    assert missing.empty, "only what is in the scope is planned"
