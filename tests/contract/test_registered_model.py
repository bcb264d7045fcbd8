"""RegisteredModel on a real server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mlflow_platform.errors import Rejected
from mlflow_platform.kinds.registry import KINDS
from mlflow_platform.kinds.versioned import KEY_TAG
from mlflow_platform.plan.objects import MARK_TAG, Key, Mark
from tests.contract.access_loop import Folder, document, unique

pytest_plugins = ("tests.contract.access_fixtures",)

MODELS, VERSIONS = "api/2.0/mlflow/registered-models/", "api/2.0/mlflow/model-versions/"
CREATE, UPDATE, DELETE = f"POST {MODELS}create", f"PATCH {MODELS}update", f"DELETE {MODELS}delete"
SET_TAG, REMOVE_TAG = f"POST {MODELS}set-tag", f"DELETE {MODELS}delete-tag"
ALIAS, REMOVE_ALIAS = f"POST {MODELS}alias", f"DELETE {MODELS}alias"
NEW_VERSION, SEARCH_VERSIONS = f"POST {VERSIONS}create", f"GET {VERSIONS}search"
SET_VERSION_TAG, REMOVE_VERSION_TAG = f"POST {VERSIONS}set-tag", f"DELETE {VERSIONS}delete-tag"
UPDATE_VERSION = f"PATCH {VERSIONS}update"
READS = ["POST api/2.0/mlflow/experiments/search", f"GET {MODELS}search"]


def model(name: str, /, **spec: Any) -> dict[str, Any]:
    return document("RegisteredModel", name, **spec)


def by_hand(folder: Folder, method: str, path: str, **body: Any) -> Any:
    return folder.api.call(method, path, json=body)


def version_by_hand(folder: Folder, name: str, source: str) -> str:
    answer = by_hand(folder, "POST", VERSIONS + "create", name=name, source=source)
    return str(answer["model_version"]["version"])


def versions(folder: Folder, name: str) -> dict[str, dict[str, Any]]:
    """Number -> version as MLflow has it, its tags as a mapping."""
    params = {"filter": f"name = '{name}'", "max_results": 1000}
    answer = folder.api.call("GET", VERSIONS + "search", params=params).get("model_versions", [])
    return {v["version"]: {**v, "tags": {t["key"]: t["value"] for t in v.get("tags", ())}} for v in answer}


def found(folder: Folder, name: str) -> dict[str, Any]:
    answer = folder.api.call("GET", MODELS + "get", params={"name": name})["registered_model"]
    return {
        **answer,
        "tags": {t["key"]: t["value"] for t in answer.get("tags", ())},
        "aliases": {a["alias"]: a["version"] for a in answer.get("aliases", ())},
    }


def sent(folder: Folder) -> list[str]:
    return folder.api.requests


def key_of(name: str) -> Key:
    return Key("RegisteredModel", "default", name)


def test_a_model_through_its_whole_life(folder: Folder) -> None:
    name = unique("life")
    first = {"key": "summer", "source": "s3://models/summer", "description": "s", "tags": {"acc": "0.9"}}
    doc = model(
        name,
        description="why",
        tags={"team": "search"},
        versions=[first, {"key": "autumn", "source": "s3://models/autumn"}],
        aliases={"champion": {"key": "summer"}, "candidate": {"key": "autumn"}},
    )
    assert folder.succeed(doc) == [f"create {name}"]
    assert sent(folder) == [CREATE, NEW_VERSION, NEW_VERSION, ALIAS, ALIAS], "no look-up, no tag after"
    made = found(folder, name)
    mark = Mark.from_text(made["tags"].pop(MARK_TAG))
    assert mark is not None
    assert (mark.owner, mark.origin) == (folder.owner, f"RegisteredModel/default/{name}")
    assert (made["description"], made["tags"]) == ("why", {"team": "search"})
    assert made["aliases"] == {"champion": "1", "candidate": "2"}, "versions are made in the document's order"
    one = versions(folder, name)["1"]
    assert (one["source"], one["description"]) == ("s3://models/summer", "s")
    assert one["tags"] == {"acc": "0.9", KEY_TAG: "summer"}

    folder.api.requests.clear()
    assert folder.plan(doc, prune=False).empty
    assert sent(folder) == [*READS[:1], SEARCH_VERSIONS, READS[1]]
    assert folder.succeed(doc) == []
    assert sent(folder) == [], "a second apply writes nothing"

    first |= {"description": "sunny", "tags": {"f1": "0.8"}}
    doc["spec"]["versions"].append({"key": "winter", "source": "s3://models/winter"})
    doc["spec"]["aliases"] = {"champion": {"key": "winter"}}
    del doc["spec"]["description"]
    doc["spec"]["tags"] = {"team": "ads"}
    assert folder.succeed(doc) == [f"update {name}"]
    assert sent(folder) == [
        REMOVE_ALIAS,
        UPDATE,
        REMOVE_VERSION_TAG,
        SET_TAG,
        SET_TAG,
        SEARCH_VERSIONS,
        UPDATE_VERSION,
        SET_VERSION_TAG,
        NEW_VERSION,
        ALIAS,
    ], "what left, the mark, what is new; before a version is made it is looked for"
    made, all_versions = found(folder, name), versions(folder, name)
    assert (made["aliases"], made.get("description") or None) == ({"champion": "3"}, None)
    assert made["tags"]["team"] == "ads"
    assert all_versions["1"]["tags"] == {"f1": "0.8", KEY_TAG: "summer"}
    assert all_versions["1"]["description"] == "sunny"
    assert folder.plan(doc).empty

    doc["spec"]["versions"] = doc["spec"]["versions"][2:]
    folder.succeed(doc)
    assert versions(folder, name)["1"]["tags"] == {"f1": "0.8", KEY_TAG: "summer"}, "nobody's business now"
    assert folder.plan(doc).empty

    assert folder.succeed() == [f"forget {name}"]
    assert sent(folder) == [REMOVE_TAG]
    doc["spec"]["deletionPolicy"] = "Delete"
    assert folder.succeed(doc) == [f"adopt {name}"]
    assert folder.succeed() == [f"delete {name}"]
    assert sent(folder) == [DELETE]
    with pytest.raises(Rejected) as gone:
        found(folder, name)
    assert gone.value.code == "RESOURCE_DOES_NOT_EXIST"


def test_drift_is_corrected(folder: Folder) -> None:
    name = unique("drift")
    doc = model(
        name,
        description="as declared",
        versions=[{"key": k, "source": f"s3://m/{k}", "description": k} for k in ("a", "b")],
        aliases={"live": {"key": "b"}, "old": {"version": 1}},
    )
    folder.succeed(doc)
    by_hand(folder, "PATCH", MODELS + "update", name=name, description="by hand")
    by_hand(folder, "POST", MODELS + "alias", name=name, alias="live", version="1")
    by_hand(folder, "POST", MODELS + "alias", name=name, alias="mine", version="1")
    by_hand(folder, "PATCH", VERSIONS + "update", name=name, version="2", description="by hand")
    (change,) = folder.plan(doc).changes
    assert {f.path: (f.old, f.new) for f in change.fields} == {
        ("aliases", "live"): ("key:a", "key:b"),
        ("description",): ("by hand", "as declared"),
        ("versions", "b", "description"): ("by hand", "b"),
    }
    folder.succeed(doc)
    assert sent(folder) == [UPDATE, UPDATE_VERSION, ALIAS]
    assert found(folder, name)["aliases"] == {"live": "2", "old": "1", "mine": "1"}
    assert folder.plan(doc).empty

    by_hand(folder, "DELETE", VERSIONS + "delete", name=name, version="2")
    folder.succeed(doc)
    assert found(folder, name)["aliases"]["live"] == "3", "the declared version is made again"
    assert folder.plan(doc).empty


def test_an_alias_that_is_left_to_promotions(folder: Folder) -> None:
    name = unique("promoted")
    doc = model(
        name,
        versions=[{"key": "a", "source": "s3://m/a"}, {"key": "b", "source": "s3://m/b"}],
        aliases={"live": {"key": "a", "drift": "Ignore"}, "pinned": {"key": "a"}},
    )
    folder.succeed(doc)
    for alias in ("live", "pinned"):
        by_hand(folder, "POST", MODELS + "alias", name=name, alias=alias, version="2")
    folder.succeed(doc)
    assert found(folder, name)["aliases"] == {"live": "2", "pinned": "1"}
    by_hand(folder, "DELETE", MODELS + "alias", name=name, alias="live")
    folder.succeed(doc)
    assert found(folder, name)["aliases"] == {"live": "1", "pinned": "1"}, "set again where it is absent"


def test_an_alias_by_number_needs_no_look_at_versions(folder: Folder) -> None:
    name = unique("number")
    by_hand(folder, "POST", MODELS + "create", name=name)
    for source in ("s3://m/1", "s3://m/2"):
        version_by_hand(folder, name, source)
    doc = model(name, aliases={"live": {"version": 2}})
    assert folder.succeed(doc) == [f"adopt {name}"]
    assert sent(folder) == [SET_TAG, ALIAS]
    folder.api.requests.clear()
    assert folder.plan(doc, prune=False).empty
    assert sent(folder) == READS
    doc["spec"]["aliases"]["live"]["version"] = 9
    (result,) = folder.apply(doc)
    assert "version=9" in str(result.error)


def test_a_version_is_not_made_twice_when_its_answer_is_lost(folder: Folder) -> None:
    name = unique("lost")
    doc = model(
        name,
        versions=[{"key": k, "source": f"s3://m/{k}"} for k in ("a", "b")],
        aliases={"live": {"key": "b"}},
    )
    (change,) = folder.plan(doc).changes
    with pytest.raises(KeyboardInterrupt):
        KINDS["RegisteredModel"].execute(_KilledAfter(folder, NEW_VERSION), change, {}, None)
    assert list(versions(folder, name)) == ["1"]
    stale = folder.plan(doc).changes[0]
    with pytest.raises(KeyboardInterrupt):
        KINDS["RegisteredModel"].execute(_KilledAfter(folder, NEW_VERSION), stale, {}, None)
    assert sorted(versions(folder, name)) == ["1", "2"]
    # The same plan once more, as if the request had still been on its way when it was made.
    KINDS["RegisteredModel"].execute(folder.api, stale, {}, None)
    assert sorted(versions(folder, name)) == ["1", "2"]
    assert folder.plan(doc).empty
    assert found(folder, name)["aliases"] == {"live": "2"}


def two_versions(name: str) -> dict[str, Any]:
    return model(
        name,
        versions=[{"key": k, "source": f"s3://m/{k}"} for k in ("a", "b")],
        aliases={"live": {"key": "b"}},
    )


def once_each(folder: Folder, name: str) -> None:
    """Every key is borne by one version, and the alias points at that of `b`."""
    made = {number: v["tags"][KEY_TAG] for number, v in versions(folder, name).items()}
    assert sorted(made.values()) == ["a", "b"], made
    assert made[found(folder, name)["aliases"]["live"]] == "b"
    assert folder.plan(two_versions(name)).empty


@pytest.mark.parametrize("request_number", [1, 2])
def test_another_apply_makes_the_versions_while_this_one_does(folder: Folder, request_number: int) -> None:
    name = unique("beside")
    (change,) = folder.plan(two_versions(name)).changes
    kind = KINDS["RegisteredModel"]
    left = request_number

    class Interrupted:
        """Before the given request for a version, the other apply runs from its beginning to its end."""

        def call(self, method: str, path: str, **options: Any) -> Any:
            nonlocal left
            if f"{method} {path}" == NEW_VERSION:
                left -= 1
                if left == 0:
                    kind.execute(folder.api, change, {}, None)
            return folder.api.call(method, path, **options)

    kind.execute(Interrupted(), change, {}, None)  # type: ignore[arg-type]
    once_each(folder, name)


def test_two_applies_at_once_make_each_version_once(folder: Folder) -> None:
    for name in [unique("race") for _ in range(5)]:
        (change,) = folder.plan(two_versions(name), prune=False).changes
        with ThreadPoolExecutor(2) as pool:
            both = [
                pool.submit(KINDS["RegisteredModel"].execute, folder.api, change, {}, None) for _ in range(2)
            ]
            for one in both:
                one.result()
        made = [v["tags"][KEY_TAG] for v in versions(folder, name).values()]
        assert sorted(made) == ["a", "b"]
        assert folder.plan(two_versions(name), prune=False).empty


def test_export_says_what_the_server_does_not_know(folder: Folder) -> None:
    name = unique("told")
    doc = model(
        name,
        versions=[{"key": "a", "source": "s3://m/a"}],
        aliases={"live": {"key": "a", "drift": "Ignore"}, "old": {"version": 1}},
    )
    folder.succeed(doc)
    by_hand(folder, "POST", MODELS + "alias", name=name, alias="mine", version="1")
    by_hand(folder, "POST", VERSIONS + "set-tag", name=name, version="1", key="long", value="x" * 5001)
    said = KINDS["RegisteredModel"].left_out(folder.observed(key_of(name)))
    assert said == (
        f"RegisteredModel {name!r}: left out: the tag long of version 1 (more than 64, or longer than "
        "5000 characters); whether the aliases live, old had `drift: Ignore` is not known to the "
        "server: put it back"
    )
    by_hand(folder, "DELETE", VERSIONS + "delete-tag", name=name, version="1", key="long")
    folder.succeed()
    assert KINDS["RegisteredModel"].left_out(folder.observed(key_of(name))) is None


class _KilledAfter:
    """Stands for a process that dies when a request has been carried out, before its answer is read."""

    def __init__(self, folder: Folder, request: str) -> None:
        self._folder, self._request = folder, request

    def call(self, method: str, path: str, **options: Any) -> Any:
        answer = self._folder.api.call(method, path, **options)
        if f"{method} {path}" == self._request:
            raise KeyboardInterrupt
        return answer


def test_the_source_of_a_key_cannot_change(folder: Folder) -> None:
    name = unique("source")
    version = {"key": "a", "source": "s3://m/a"}
    doc = model(name, versions=[version])
    folder.succeed(doc)
    version["source"] = "s3://m/b"
    (problem,) = folder.problems(doc)
    assert "versions.a.source cannot be changed once set" in problem
    assert "'s3://m/a', document says 's3://m/b'" in problem
    assert "declare the new version under a new key" in problem
    version["source"], version["runId"] = "s3://m/a", "0" * 32
    (problem,) = folder.problems(doc)
    assert "versions.a.runId cannot be changed" in problem


def test_v_and_a_number_is_the_key_of_a_version_that_somebody_else_made(folder: Folder) -> None:
    name = unique("numbered")
    by_hand(folder, "POST", MODELS + "create", name=name)
    for source in ("s3://m/1", "s3://m/2"):
        version_by_hand(folder, name, source)
    second = {"key": "v2", "source": "s3://m/2"}
    doc = model(name, versions=[second], aliases={"live": {"key": "v2"}})
    assert folder.succeed(doc) == [f"adopt {name}"]
    assert sent(folder) == [SET_TAG, ALIAS]
    assert found(folder, name)["aliases"] == {"live": "2"}
    assert folder.plan(doc).empty
    second["source"] = "s3://m/other"
    (problem,) = folder.problems(doc)
    assert "v<number> is the key of a version that somebody else made" in problem
    second |= {"key": "other"}
    doc["spec"]["aliases"]["live"]["key"] = "other"
    folder.succeed(doc)
    assert found(folder, name)["aliases"] == {"live": "3"}


def test_a_source_that_mlflow_resolves_is_still_what_the_document_says(folder: Folder) -> None:
    origin, name = unique("origin"), unique("copy")
    original = model(origin, versions=[{"key": "a", "source": "s3://m/a"}], aliases={"live": {"key": "a"}})
    folder.succeed(original)
    copy = model(name, versions=[{"key": "a", "source": f"models:/{origin}@live"}])
    folder.succeed(original, copy)
    assert versions(folder, name)["1"]["source"] == f"models:/{origin}/1"
    assert folder.plan(original, copy).empty


def test_a_run_made_it(folder: Folder) -> None:
    name = unique("run")
    answer = by_hand(folder, "POST", "api/2.0/mlflow/runs/create", experiment_id="0")
    run = answer["run"]["info"]["run_id"]
    doc = model(name, versions=[{"key": "a", "source": f"runs:/{run}/model", "runId": run}])
    folder.succeed(doc)
    assert versions(folder, name)["1"]["run_id"] == run
    assert folder.plan(doc).empty
    (imported,) = [folder.imported(key_of(name))]
    assert imported is not None
    assert imported["spec"] == doc["spec"]


def test_what_mlflow_refuses_is_said_and_the_rest_goes_on(folder: Folder) -> None:
    bad, good = unique("bad"), unique("good")
    results = folder.apply(
        model(bad, versions=[{"key": "a", "source": "models:/no-such-model-of-mine/1"}]),
        model(good),
    )
    errors = {r.change.key.name: r.error for r in results}
    assert errors[good] is None
    assert isinstance(errors[bad], Rejected)
    assert "no-such-model-of-mine" in str(errors[bad])


def test_names_and_values_as_people_write_them(folder: Folder) -> None:
    name = unique("Модель 🚀 'it`s' 100%?&=")
    doc = model(
        unique("doc"),
        name=name,
        description="ñ" * 5000,
        tags={"k/e.y": "värde\n2"},
        versions=[{"key": "a", "source": "s3://m/ä?x=1", "tags": {"long": "x" * 5000}}],
    )
    folder.succeed(doc)
    assert folder.plan(doc).empty
    doc["spec"]["versions"].append({"key": "b", "source": "s3://m/b"})
    folder.succeed(doc)
    assert SEARCH_VERSIONS in sent(folder), "found by a name with quotes in it"
    assert len(folder.observed(key_of(name)).handle["numbers"]) == 2


def test_a_model_made_by_hand_is_imported_and_plans_empty(folder: Folder) -> None:
    name = unique("hand made")
    by_hand(folder, "POST", MODELS + "create", name=name, description="d", tags=[{"key": "a", "value": "b"}])
    for n in ("1", "2", "3"):
        version_by_hand(folder, name, f"s3://m/{n}")
    by_hand(folder, "DELETE", VERSIONS + "delete", name=name, version="1")
    by_hand(folder, "POST", VERSIONS + "set-tag", name=name, version="3", key="k", value="v")
    by_hand(folder, "POST", MODELS + "alias", name=name, alias="live", version="3")
    imported = folder.imported(key_of(name))
    assert imported is not None
    assert imported["spec"] == {
        "name": name,
        "description": "d",
        "tags": {"a": "b"},
        "versions": [
            {"key": "v2", "source": "s3://m/2"},
            {"key": "v3", "source": "s3://m/3", "tags": {"k": "v"}},
        ],
        "aliases": {"live": {"key": "v3"}},
    }
    assert folder.plan(imported).empty


def test_a_model_and_a_prompt_cannot_share_a_name(folder: Folder) -> None:
    name = unique("both")
    folder.succeed(document("Prompt", name, versions=[{"key": "a", "template": "x"}]))
    (change,) = Folder(folder.api, folder.login_secret).plan(model(unique("free")), prune=False).changes
    assert change.handle == {}
    (problem,) = folder.problems(model(name), prune=False)
    assert f"RegisteredModel {name!r}: the server has a prompt of this name" in problem
    assert "give the registered model another name, or remove the prompt" in problem
    with pytest.raises(StopIteration):
        folder.observed(key_of(name))
