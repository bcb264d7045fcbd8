"""Webhook on a real server."""

from __future__ import annotations

import pytest

from mlflow_platform.errors import Transient
from mlflow_platform.kinds import webhook
from mlflow_platform.kinds.base import Snapshot
from mlflow_platform.kinds.registry import KINDS
from mlflow_platform.plan.objects import Key
from tests.contract.access_loop import Folder, document, secret, unique

pytest_plugins = ("tests.contract.access_fixtures",)

CREATES = ["GET api/2.0/mlflow/webhooks", "POST api/2.0/mlflow/webhooks"]
READS = ["POST api/2.0/mlflow/experiments/search", "GET api/2.0/mlflow/webhooks"]
EVENT = {"entity": "MODEL_VERSION", "action": "CREATED"}


def make_by_hand(folder: Folder, name: str, url: str) -> str:
    body = {"name": name, "url": url, "events": [EVENT]}
    answer = folder.api.call("POST", "api/2.0/mlflow/webhooks", json=body)
    return str(answer["webhook"]["webhook_id"])


def test_a_webhook_through_its_whole_life(folder: Folder) -> None:
    name = unique("notify")
    folder.secrets["hook"] = "signs every call"
    hook = document(
        "Webhook",
        name,
        url="https://93.184.216.34/hook",
        events=["model_version.created", "model_version_alias.created"],
        description="tells the release channel",
        secretRef=secret("hook"),
        deletionPolicy="Delete",
    )
    key = Key("Webhook", "default", name)

    assert folder.succeed(hook) == [f"create {name}"]
    assert folder.api.take() == CREATES
    hook["spec"]["events"].reverse()
    assert folder.unchanged(hook) == READS, "the order of events says nothing"
    assert folder.succeed(hook) == []
    assert folder.api.take() == []

    hook["spec"] |= {"url": "https://93.184.216.34/other", "events": ["prompt.created"], "active": False}
    del hook["spec"]["description"]
    assert folder.succeed(hook) == [f"update {name}"]
    assert folder.api.take() == ["PATCH api/2.0/mlflow/webhooks/<id>"]
    assert dict(folder.observed(key).fields) | {("secret",): ""} == {
        ("url",): "https://93.184.216.34/other",
        ("events",): "prompt.created",
        ("active",): False,
        ("description",): None,
        ("secret",): "",
    }
    assert folder.plan(hook).empty

    folder.secrets["hook"] = "signs every call anew"
    assert [[f.path for f in c.fields] for c in folder.plan(hook).changes] == [[("secret",)]]
    folder.succeed(hook)
    assert folder.plan(hook).empty

    reference = hook["spec"].pop("secretRef")
    assert [[(f.path, f.new) for f in c.fields] for c in folder.plan(hook).changes] == [[(("secret",), None)]]
    assert folder.succeed(hook) == [f"update {name}"]
    assert folder.api.take() == ["PATCH api/2.0/mlflow/webhooks/<id>"]
    assert folder.plan(hook).empty
    hook["spec"]["secretRef"] = reference
    assert folder.succeed(hook) == [f"update {name}"]
    assert folder.api.take() == ["PATCH api/2.0/mlflow/webhooks/<id>"], "the same secret as before, set anew"
    assert folder.plan(hook).empty

    path = f"api/2.0/mlflow/webhooks/{folder.observed(key).handle['ids'][0]}"
    folder.api.call("PATCH", path, json={"status": "ACTIVE"})
    assert [[(f.path, f.old) for f in c.fields] for c in folder.plan(hook).changes] == [[(("active",), True)]]
    folder.succeed(hook)
    assert folder.plan(hook).empty

    assert folder.succeed() == [f"delete {name}"]
    assert folder.api.take() == ["DELETE api/2.0/mlflow/webhooks/<id>"]
    assert folder.succeed(hook) == [f"create {name}"]
    assert folder.plan(hook).empty
    folder.succeed()


def test_a_webhook_made_by_hand_is_adopted(folder: Folder) -> None:
    name = unique("found")
    webhook_id = make_by_hand(folder, name, "https://93.184.216.34/a")
    hook = document(
        "Webhook",
        name,
        url="https://93.184.216.34/b",
        events=["model_version.created"],
        deletionPolicy="Delete",
    )
    assert folder.succeed(hook) == [f"adopt {name}"]
    observed = folder.observed(Key("Webhook", "default", name))
    assert (observed.handle["ids"], observed.fields[("url",)]) == ([webhook_id], "https://93.184.216.34/b")
    assert folder.succeed() == [f"delete {name}"]


def test_one_that_is_made_while_the_plan_is_carried_out(folder: Folder) -> None:
    name = unique("meanwhile")
    url = "https://93.184.216.34/a"
    hook = document("Webhook", name, url=url, events=["model_version.created"], deletionPolicy="Delete")
    (change,) = folder.plan(hook).changes
    webhook_id = make_by_hand(folder, name, url)
    with pytest.raises(Transient, match="was made since it was looked for"):
        KINDS["Webhook"].execute(folder.api, change, {}, None)
    assert folder.succeed(hook) == [f"adopt {name}"]
    assert folder.observed(change.key).handle["ids"] == [webhook_id]
    folder.succeed()


def test_export_keeps_what_the_ledger_knows_and_says_what_it_does_not(folder: Folder) -> None:
    name = unique("Exported")
    folder.secrets["hook"] = "signs every call"
    hook = document(
        "Webhook",
        unique("doc"),
        name=name,
        url="https://93.184.216.34/a",
        events=["model_version.created"],
        description="why",
        secretRef=secret("hook"),
        deletionPolicy="Delete",
    )
    folder.succeed(hook)
    key = Key("Webhook", "default", name)
    said = KINDS["Webhook"].left_out(folder.observed(key))
    assert said == f"Webhook {name!r}: spec.secretRef is not known to the server: put it back"
    exported = folder.imported(key)
    assert exported is not None
    exported["spec"]["secretRef"] = secret("hook")
    assert exported == hook
    assert folder.plan(exported).empty
    folder.succeed()


def test_of_several_with_one_name_none_is_touched(folder: Folder) -> None:
    name = unique("twins")
    ids = [make_by_hand(folder, name, "https://93.184.216.34/a") for _ in range(2)]
    hook = document("Webhook", name, url="https://93.184.216.34/a", events=["model_version.created"])
    [problem] = folder.problems(hook)
    assert problem.startswith(f"2 webhooks are named {name!r}: ")
    assert all(i in problem for i in ids)
    assert folder.imported(Key("Webhook", "default", name)) is None
    said = KINDS["Webhook"].left_out(folder.observed(Key("Webhook", "default", name)))
    assert said is not None
    assert f"has no document: 2 webhooks are named {name!r}" in said
    assert all(i in said for i in ids)

    folder.api.call("DELETE", f"api/2.0/mlflow/webhooks/{ids[0]}")
    assert folder.succeed(hook, adopt_all=True) == [f"adopt {name}"]
    folder.api.call("DELETE", f"api/2.0/mlflow/webhooks/{ids[1]}")


def test_import_gives_a_document_whose_plan_is_empty(folder: Folder) -> None:
    name = unique("Release.Hook")
    webhook_id = make_by_hand(folder, name, "https://93.184.216.34/a")
    found = folder.imported(Key("Webhook", "default", name))
    assert found is not None
    assert found["spec"] == {
        "name": name,
        "url": "https://93.184.216.34/a",
        "events": ["model_version.created"],
    }
    assert folder.plan(found).empty
    folder.api.call("DELETE", f"api/2.0/mlflow/webhooks/{webhook_id}")


def test_a_page_is_not_the_end(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [unique("paged") for _ in range(3)]
    ids = [make_by_hand(folder, n, "https://93.184.216.34/a") for n in names]
    monkeypatch.setattr(webhook, "MAX_A_PAGE", 2)
    folder.api.take()
    seen = {o.key.name for o in webhook.Webhook().observe(Snapshot(folder.api), ())}
    assert set(names) <= seen
    assert len(folder.api.take()) >= 2
    for webhook_id in ids:
        folder.api.call("DELETE", f"api/2.0/mlflow/webhooks/{webhook_id}")
