"""The definitions as they are committed, and what holds of every one of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.model import DOCUMENTS, crd
from mlflow_platform.model.rules import LIST_KEYS, RULES

FOLDER = Path(__file__).parents[2] / "manifests" / "crds"


def test_the_committed_files_are_current() -> None:
    committed = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.yaml")}
    assert committed == crd.files(), "make manifests rewrites them"


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_everything_has_a_bound_and_every_field_of_spec_a_description(kind: str) -> None:
    (version,) = crd.definition(kind)["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    for path, node in nodes(schema["properties"]["spec"], "spec"):
        assert "description" in node or path.endswith(("[]", "{}")), path
        match node["type"]:
            case "string":
                assert "enum" in node or "maxLength" in node, path
            case "array":
                assert "maxItems" in node, path
                assert "x-kubernetes-list-type" in node, path
            case "object":
                assert "properties" in node or "maxProperties" in node, path
            case "integer":
                assert {"minimum", "maximum"} <= set(node), path
        assert not {"$ref", "const", "patternProperties", "anyOf", "oneOf", "title"} & set(node), path


def test_every_rule_has_its_place() -> None:
    places: set[tuple[str, ...]] = set()
    for kind in DOCUMENTS:
        (version,) = crd.definition(kind)["spec"]["versions"]
        for path, _ in nodes(version["schema"]["openAPIV3Schema"]):
            steps = path.replace("[]", ".[]").replace("{}", ".{}").split(".")
            places.add((kind, *filter(None, steps)))
    assert set(RULES) <= places
    assert set(LIST_KEYS) <= places


def test_every_kind_can_be_told_by_its_short_names_and_shows_whether_it_is_ready() -> None:
    names = [n for model in DOCUMENTS.values() for n in (model.plural, *model.short_names)]
    assert len(names) == len(set(names))
    for definition in crd.definitions():
        (version,) = definition["spec"]["versions"]
        columns = [c["name"] for c in version["additionalPrinterColumns"]]
        assert {"Ready", "Reason", "Age"} <= set(columns)
        assert version["subresources"] == {"status": {}}
