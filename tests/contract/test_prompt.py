"""Prompt on a real server, read by MLflow's own client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mlflow_platform.kinds.registry import KINDS
from mlflow_platform.kinds.versioned import KEY_TAG
from mlflow_platform.local import Stack
from mlflow_platform.plan.objects import MARK_TAG, Key
from tests.contract.access_loop import Folder, document, unique

pytest_plugins = ("tests.contract.access_fixtures",)

MODELS, VERSIONS = "api/2.0/mlflow/registered-models/", "api/2.0/mlflow/model-versions/"
CREATE, ALIAS, SET_TAG = f"POST {MODELS}create", f"POST {MODELS}alias", f"POST {MODELS}set-tag"
NEW_VERSION, SEARCH_VERSIONS = f"POST {VERSIONS}create", f"GET {VERSIONS}search"
SET_VERSION_TAG, UPDATE_VERSION = f"POST {VERSIONS}set-tag", f"PATCH {VERSIONS}update"
CHAT = [{"role": "system", "content": "Be kind, ñ."}, {"role": "user", "content": "{{ question }}"}]


def prompt(name: str, *versions: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return document("Prompt", name, versions=list(versions), **spec)


def key_of(name: str) -> Key:
    return Key("Prompt", "default", name)


@pytest.fixture
def client(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`mlflow.genai` of somebody who knows nothing of this platform."""
    import mlflow

    at = stack.endpoints()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", at.username)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", at.password)
    mlflow.set_tracking_uri(at.tracking_uri)
    mlflow.set_registry_uri(at.tracking_uri)
    yield mlflow.genai
    mlflow.set_tracking_uri(None)  # else it stays for every test after these, before $MLFLOW_TRACKING_URI
    mlflow.set_registry_uri(None)


def numbers(folder: Folder, name: str) -> dict[str, str]:
    """Number -> key tag, empty where there is none."""
    params = {"filter": f"name = '{name}' AND tags.`mlflow.prompt.is_prompt` = 'true'", "max_results": 1000}
    answer = folder.api.call("GET", VERSIONS + "search", params=params).get("model_versions", [])
    return {
        v["version"]: next((t["value"] for t in v["tags"] if t["key"] == KEY_TAG), "")
        for v in sorted(answer, key=lambda v: int(v["version"]))
    }


def test_a_prompt_through_its_whole_life(folder: Folder, client: Any) -> None:
    name = unique("life")
    doc = prompt(
        name,
        {"key": "short", "template": "Say {{ word }}.", "commitMessage": "first", "tags": {"by": "ann"}},
        {"key": "chat", "messages": CHAT},
        description="greets",
        tags={"team": "search"},
        aliases={"live": {"key": "chat"}},
    )
    assert folder.succeed(doc) == [f"create {name}"]
    assert folder.api.requests == [CREATE, NEW_VERSION, NEW_VERSION, ALIAS]

    text = client.load_prompt(name, version=1)
    assert (text.template, text.commit_message, text.tags["by"]) == ("Say {{ word }}.", "first", "ann")
    assert text.format(word="hi") == "Say hi."
    chat = client.load_prompt(f"prompts:/{name}@live")
    assert (chat.version, chat.template) == (2, CHAT)
    assert chat.format(question="why?")[1] == {"role": "user", "content": "why?"}

    assert folder.succeed(doc) == []
    assert folder.api.requests == []

    first = doc["spec"]["versions"][0]
    first["commitMessage"] = "made it short"
    first["tags"] = {"by": "bob"}
    doc["spec"]["versions"].append({"key": "long", "template": "Say {{ word }} and more."})
    doc["spec"]["aliases"]["live"]["key"] = "long"
    assert folder.succeed(doc) == [f"update {name}"]
    assert folder.api.requests == [SEARCH_VERSIONS, UPDATE_VERSION, SET_VERSION_TAG, NEW_VERSION, ALIAS]
    assert numbers(folder, name) == {"1": "short", "2": "chat", "3": "long"}
    assert client.load_prompt(f"prompts:/{name}@live", cache_ttl_seconds=0).version == 3
    assert folder.plan(doc).empty

    first["template"] = "Another text"
    (problem,) = folder.problems(doc)
    assert "versions.short.template cannot be changed once set" in problem
    assert "give the new text a new key" in problem

    assert folder.succeed() == [f"forget {name}"]
    doc["spec"]["deletionPolicy"] = "Delete"
    first["template"] = "Say {{ word }}."
    folder.succeed(doc)
    assert folder.succeed() == [f"delete {name}"]


def test_a_text_that_is_there_is_not_made_again(folder: Folder, client: Any) -> None:
    name = unique("known")
    client.register_prompt(name=name, template="One")
    client.register_prompt(name=name, template=CHAT, commit_message="as chat")
    client.register_prompt(name=name, template="Three")
    doc = prompt(
        name,
        {"key": "chat", "messages": CHAT},
        {"key": "one", "template": "One"},
        {"key": "four", "template": "Four"},
        aliases={"live": {"key": "chat"}},
    )
    assert folder.succeed(doc) == [f"adopt {name}"]
    assert numbers(folder, name) == {"1": "one", "2": "chat", "3": "", "4": "four"}
    assert client.load_prompt(f"prompts:/{name}@live").version == 2
    assert folder.plan(doc).empty

    doc["spec"]["versions"][1]["key"] = "uno"
    assert folder.succeed(doc) == [f"update {name}"]
    assert folder.api.requests == [SET_VERSION_TAG], "another key for the same text"
    assert numbers(folder, name) == {"1": "uno", "2": "chat", "3": "", "4": "four"}

    del doc["spec"]["versions"][1]
    folder.succeed(doc)
    doc["spec"]["versions"].append({"key": "back", "template": "One"})
    folder.succeed(doc)
    assert numbers(folder, name) == {"1": "back", "2": "chat", "3": "", "4": "four"}
    assert folder.plan(doc).empty


def test_one_that_is_registered_while_the_plan_is_carried_out(folder: Folder, client: Any) -> None:
    name = unique("meanwhile")
    doc = prompt(name, {"key": "a", "template": "A"})
    folder.succeed(doc)
    doc["spec"]["versions"].append({"key": "b", "template": "B"})
    (change,) = folder.plan(doc).changes
    client.register_prompt(name=name, template="B")
    KINDS["Prompt"].execute(folder.api, change, {}, None)
    assert list(numbers(folder, name)) == ["1", "2"]
    folder.succeed(doc)
    assert numbers(folder, name) == {"1": "a", "2": "b"}
    assert folder.plan(doc).empty


def test_aliases_follow_unless_left_to_promotions(folder: Folder, client: Any) -> None:
    name = unique("aliases")
    doc = prompt(
        name,
        {"key": "a", "template": "A"},
        {"key": "b", "template": "B"},
        aliases={"live": {"key": "b", "drift": "Ignore"}, "pinned": {"key": "b"}, "gone": {"key": "a"}},
    )
    folder.succeed(doc)
    for alias in ("live", "pinned"):
        client.set_prompt_alias(name, alias=alias, version=1)
    del doc["spec"]["aliases"]["gone"]
    folder.succeed(doc)
    fields = folder.observed(key_of(name)).fields
    aliases = {p[1]: v for p, v in fields.items() if p[0] == "aliases"}
    assert aliases == {"live": "key:a", "pinned": "key:b"}
    assert folder.plan(doc).empty


def test_a_prompt_made_by_hand_is_imported_and_plans_empty(folder: Folder, client: Any) -> None:
    name = unique("hand.made")
    client.register_prompt(name=name, template="One", tags={"a": "b"}, commit_message="first")
    client.register_prompt(name=name, template=CHAT, response_format={"type": "object"})
    client.register_prompt(name=name, template="One", commit_message="once more")
    client.set_prompt_alias(name, alias="live", version=2)
    client.set_prompt_alias(name, alias="again", version=3)
    imported = folder.imported(key_of(name))
    assert imported is not None
    assert imported["spec"] == {
        "description": "first",
        "tags": {"a": "b"},
        "versions": [
            {"key": "v1", "template": "One", "commitMessage": "first", "tags": {"a": "b"}},
            {"key": "v2", "messages": CHAT},
        ],
        "aliases": {"live": {"key": "v2"}},
    }, "the same text is declared once"
    assert KINDS["Prompt"].left_out(folder.observed(key_of(name))) == (
        f"Prompt {name!r}: left out: the response format of version 2, version 3 (the same content as "
        "version 1), "
        "the alias again (of version 3, which is left out)"
    )
    assert folder.plan(imported).empty
    assert folder.succeed(imported, adopt_all=True) == [f"adopt {name}"]
    assert folder.api.requests == [SET_TAG], "only the mark"
    assert folder.plan(imported, adopt_all=True).empty


def test_a_prompt_is_no_model_and_a_model_no_prompt(folder: Folder) -> None:
    name = unique("sort")
    folder.succeed(prompt(name, {"key": "a", "template": "A"}))
    seen = folder.observed(key_of(name))
    assert seen.mark is not None
    assert not [p for p in seen.fields if p[:2] == ("tags", MARK_TAG)]
    with pytest.raises(StopIteration):
        folder.observed(Key("RegisteredModel", "default", name))
    folder.succeed()
    other = unique("sort")
    folder.api.call("POST", MODELS + "create", json={"name": other})
    (problem,) = folder.problems(prompt(other, {"key": "a", "template": "A"}), prune=False)
    assert f"Prompt {other!r}: the server has a registered model of this name" in problem
    assert "give the prompt another name, or remove the registered model" in problem
    folder.api.call("DELETE", MODELS + "delete", json={"name": other})
    assert folder.succeed(prompt(other, {"key": "a", "template": "A"})) == [f"create {other}"]


def test_the_longest_text(folder: Folder, client: Any) -> None:
    name = unique("long")
    text = "ñ" * 100_000
    doc = prompt(name, {"key": "a", "template": text})
    folder.succeed(doc)
    assert client.load_prompt(name, version=1).template == text
    assert folder.plan(doc).empty
