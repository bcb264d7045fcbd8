"""A field that is wrong hides no mistake elsewhere in its document, and nothing is said of a stand-in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mlflow_platform.config.composer import Places, build, compose
from mlflow_platform.config.mending import _MARK
from mlflow_platform.config.wording import problems_of
from mlflow_platform.model import DOCUMENTS
from tests.faults.test_documents import ROWS

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"
SECRET = {"name": "a", "key": "b"}
VALID: list[dict[str, Any]] = [
    *(d for file in sorted(EXAMPLES.glob("*.yaml")) for d in yaml.safe_load_all(file.read_text("utf-8"))),
    {
        "apiVersion": "mlplatform.io/v1alpha1",
        "kind": "TrackingServer",
        "metadata": {"name": "a", "labels": {"a": "b"}},
        "spec": {
            "trackingUri": "https://a:5000",
            "credentials": {"usernameSecretRef": SECRET, "passwordSecretRef": SECRET},
            "brakes": {"maxLossPercent": 3},
        },
    },
    {
        "apiVersion": "mlplatform.io/v1alpha1",
        "kind": "Prompt",
        "metadata": {"name": "a"},
        "spec": {
            "versions": [
                {"key": "a", "template": "x"},
                {"key": "b", "messages": [{"role": "user", "content": "x"}]},
            ],
            "aliases": {"prod": {"key": "a"}, "next": {"key": "b", "drift": "Ignore"}},
        },
    },
    {
        "apiVersion": "mlplatform.io/v1alpha1",
        "kind": "ExperimentSet",
        "metadata": {"name": "a"},
        "spec": {
            "matrix": {"b": ["x", "z"], "c": ["u", "v"]},
            "template": {"name": "{{ b }}/{{ c }}", "grants": [{"user": "{{ b }}", "permission": "READ"}]},
            "exclude": [{"b": "x", "c": "u"}],
        },
    },
]


def said(document: dict[str, Any]) -> set[tuple[str, str]]:
    """What is said about a document, with the remedies."""
    (composed,) = compose(yaml.safe_dump(document, allow_unicode=True))
    places = Places("f")
    value, problems = build(composed.node, places)
    try:
        DOCUMENTS[document["kind"]].model_validate(value)
    except ValidationError as error:
        problems += problems_of(error, value, document["kind"], composed.node, places)[0]
        assert problems, "refused without a word"
    return {(problem.what, problem.remedy) for problem in problems}


def _documents_of_rows() -> Iterator[Any]:
    for name, (text, _) in ROWS.items():
        try:
            found = list(yaml.safe_load_all(text))
        except yaml.YAMLError:
            continue
        for number, document in enumerate(found):
            whole = isinstance(document, dict) and {"kind", "metadata"} <= document.keys()
            if whole and document["kind"] in DOCUMENTS and isinstance(document.get("spec", {}), dict):
                yield pytest.param(document, id=f"{name} {number}")


#: Wrong in ways that say nothing about the rest of a document.
BESIDE: dict[str, dict[str, Any]] = {
    "a text for a mapping": {"annotations": "x"},
    "a number for a text": {"labels": {"a": 3}},
    "a map that is too long": {"labels": {f"l{i}": "x" for i in range(65)}},
    "a key that is too long": {"annotations": {"k" * 400: "x"}},
    "an unknown field": {"lables": {}},
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("document", list(_documents_of_rows()))
def test_what_is_said_is_said_also_beside_another_mistake(document: dict[str, Any], beside: str) -> None:
    before = said(document)
    changed = {**document, "metadata": {**document["metadata"], **BESIDE[beside]}}
    after = said(changed)
    assert before <= after
    assert len(after - before) == 1


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path and path != ("kind",) and path != ("apiVersion",):
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, below in items:
        yield from _paths(below, (*path, step))


JUNK = st.sampled_from(
    [
        None,
        3,
        -1,
        2.5,
        True,
        "",
        "a",
        "a=b",
        "x" * 600,
        "{{ zz }}",
        [],
        ["a"],
        [[]],
        [3],
        {},
        {"a": 1},
        {"=": {}},
    ]
)


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """A document of a person who errs: some values are others, gone, written twice or under another name."""
    document = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 4))):
        paths = list(_paths(document))
        if not paths:
            break
        *above, last = draw(st.sampled_from(paths))
        holder: Any = document
        for step in above:
            holder = holder[step]
        match draw(st.sampled_from(["replace", "remove", "rename", "double"])):
            case "replace":
                holder[last] = copy.deepcopy(draw(JUNK))
            case "remove":
                del holder[last]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["zz", "a b", "a=b", "", "x" * 400]))] = holder.pop(last)
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
    return document


@given(damaged())
def test_no_damage_makes_it_fail_or_speak_of_a_stand_in(document: dict[str, Any]) -> None:
    assert not any(_MARK in text for one in said(document) for text in one)


@given(damaged(), st.sampled_from(sorted(BESIDE)))
def test_damage_is_told_of_beside_another_mistake(document: dict[str, Any], beside: str) -> None:
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(document.get("spec", {}), dict):
        return
    changed = {**document, "metadata": {**metadata, **BESIDE[beside]}}
    hidden = said(document) - said(changed)
    assert not {what for what, _ in hidden if "metadata." not in what}


def test_a_list_that_is_too_long_hides_no_wrong_field_of_its_first_items() -> None:
    document = {
        "kind": "MLflowRole",
        "metadata": {"name": "a"},
        "spec": {"members": ["a:b", *(f"u{i}" for i in range(1000))], "name": 3},
    }
    assert {what for what, _ in said(document)} == {
        "spec.members has 1001 entries; at most 1000 are possible",
        "spec.members[0]: a user whose name holds a colon could never log in",
        "spec.name must be text, but 3 without quotes is a number in YAML",
    }


def test_a_version_that_was_cut_off_is_not_said_to_be_missing() -> None:
    versions = [{"key": f"v{i}", "source": "s3://a"} for i in range(201)]
    document = {
        "kind": "RegisteredModel",
        "metadata": {"name": "a"},
        "spec": {"versions": [versions[0], *versions], "aliases": {"prod": {"key": "v200"}, "next": {}}},
    }
    assert {what for what, _ in said(document)} == {
        "spec.versions has 202 entries; at most 200 are possible",
        "the version key 'v0' is listed twice",
        "the alias has neither version nor key",
    }
