"""RegisteredModel without a server."""

from __future__ import annotations

from typing import Any

from mlflow_platform.kinds.registered_model import SOURCE_TAG, RegisteredModel
from mlflow_platform.kinds.versioned import KEY_TAG
from mlflow_platform.model import DOCUMENTS
from mlflow_platform.plan.engine import make_plan
from mlflow_platform.plan.objects import Desired, Key, Observed

KIND = RegisteredModel()
NAME = Key("RegisteredModel", "default", "doc")


def desired(**spec: Any) -> Desired:
    document = {
        "apiVersion": "mlplatform.io/v1alpha1",
        "kind": "RegisteredModel",
        "metadata": {"name": "doc"},
        "spec": spec,
    }
    (found,) = KIND.desired(DOCUMENTS["RegisteredModel"].model_validate(document))
    return found


def version(number: int, source: str = "s3://m", **tags: str) -> dict[str, Any]:
    listed = [{"key": k.replace("_", "/"), "value": v} for k, v in tags.items()]
    return {"version": str(number), "source": source, "tags": listed}


def keyed(number: int, key: str) -> dict[str, Any]:
    return {**version(number), "tags": [{"key": KEY_TAG, "value": key}]}


def pairs(*found: dict[str, Any]) -> dict[str, str]:
    return {key: v["version"] for key, v in KIND.pair({}, found).items()}


def test_what_a_key_means() -> None:
    assert pairs(version(1), keyed(2, "a"), version(3)) == {"v1": "1", "a": "2", "v3": "3"}
    assert pairs(keyed(5, "v1"), version(1)) == {"v1": "5"}, "a key that was given comes first"
    assert pairs(keyed(3, "a"), keyed(2, "a")) == {"a": "2"}


def test_fields_and_aliases() -> None:
    want = desired(
        versions=[
            {"key": "b", "source": "s3://b", "runId": "r" * 32, "description": "d", "tags": {"t": "1"}},
            {"key": "a", "source": "s3://a"},
        ],
        aliases={"x": {"key": "a"}, "y": {"version": 7, "drift": "Ignore"}},
    )
    assert want.fields == {
        ("versions", "b", "key"): "b",
        ("versions", "b", "source"): "s3://b",
        ("versions", "b", "runId"): "r" * 32,
        ("versions", "b", "description"): "d",
        ("versions", "b", "tags", "t"): "1",
        ("versions", "a", "key"): "a",
        ("versions", "a", "source"): "s3://a",
        ("aliases", "x"): "key:a",
        ("aliases", "y"): "version:7",
    }
    assert want.initial == {("aliases", "y")}
    (change,) = make_plan([want], [], owner="me", traits={"RegisteredModel": KIND.traits}).changes
    made = list(dict.fromkeys(f.path[1] for f in change.fields if f.path[0] == "versions"))
    assert made == ["b", "a"], "versions are made in the order of the document"


def test_an_empty_description_is_none() -> None:
    want = desired(description="", versions=[{"key": "a", "source": "s3://a", "description": ""}])
    assert want.fields["description",] is None
    assert want.fields["versions", "a", "description"] is None


def test_a_source_that_mlflow_resolves_is_kept_as_a_tag() -> None:
    made = KIND.creation({"source": "models:/m@live", "key": "a"})
    assert made == {"source": "models:/m@live", "tags": {SOURCE_TAG: "models:/m@live"}}
    assert KIND.content(version(1, "models:/m/3"), made["tags"])["source"] == "models:/m@live"
    assert KIND.creation({"source": "s3://a", "runId": "r"}) == {"source": "s3://a", "run_id": "r"}


def test_import_of_more_versions_than_a_document_takes() -> None:
    numbers = {f"v{n}": str(n) for n in range(1, 301)}
    fields: dict[Any, Any] = {}
    for key in numbers:
        fields[("versions", key, "key")] = key
        fields[("versions", key, "source")] = f"s3://{key}"
        fields[("versions", key, "runId")] = ""
    fields[("aliases", "old")], fields[("aliases", "new")] = "key:v3", "key:v300"
    document = KIND.document(Observed(NAME, fields, handle={"numbers": numbers}))
    assert document is not None
    assert DOCUMENTS["RegisteredModel"].model_validate(document)
    assert [v["key"] for v in document["spec"]["versions"]] == [f"v{n}" for n in range(101, 301)]
    assert document["spec"]["aliases"] == {"new": {"key": "v300"}, "old": {"version": 3}}
    said = KIND.left_out(Observed(NAME, fields, handle={"numbers": numbers}))
    assert said == "RegisteredModel 'doc': left out: its 100 oldest version(s) (a document takes 200)"


def test_import_says_which_aliases_and_versions_it_leaves_out() -> None:
    fields: dict[Any, Any] = {("aliases", f"a{n:02}"): "version:1" for n in range(66)}
    fields |= {("versions", "v1", "source"): "s3://" + "x" * 600, ("versions", "v1", "key"): "v1"}
    observed = Observed(NAME, fields, handle={"numbers": {"v1": "1"}})
    document = KIND.document(observed)
    assert document is not None
    assert DOCUMENTS["RegisteredModel"].model_validate(document)
    assert KIND.left_out(observed) == (
        "RegisteredModel 'doc': left out: version 1 (no source that a document takes), "
        "the alias a64 (a document takes 64), the alias a65 (a document takes 64)"
    )
