"""YAML's scalars, and the place of every field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.config import load
from mlflow_platform.config.composer import Ambiguous, Places, build, compose, plain

WORDS = st.text("abcdefghijkmopqrstuvwxz", min_size=2, max_size=12).filter(lambda w: plain(w) == w)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("Null", None),
        ("yes", True),
        ("OFF", False),
        ("n", False),
        ("tRuE", "tRuE"),
        ("12", 12),
        ("-1_000", -1000),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("-.inf", float("-inf")),
        ("1.2.3", "1.2.3"),
        ("v1", "v1"),
        ("-", "-"),
        ("+", "+"),
        ("._", "._"),
        ("12abc", "12abc"),
        ("no way", "no way"),
        ("2026-01", "2026-01"),
    ],
)
def test_plain_scalars(text: str, value: Any) -> None:
    found = plain(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    ["0755", "0o17", "0x1F", "0b11", "2026-01-31", "2026-01-31T10:00:00Z", "12:30", "1:30:00", "9" * 100],
)
def test_scalars_that_readers_disagree_about(text: str) -> None:
    assert isinstance(plain(text), Ambiguous)


@given(st.text("0123456789+-.:_eExob tTzZyYnNoOfF~", max_size=14))
def test_what_pyyaml_does_not_take_for_text_is_none_here(text: str) -> None:
    """Else a tag would be one thing here and another one for the next reader of the file."""
    try:
        theirs = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return
    if isinstance(theirs, str | dict | list) or theirs is None:
        return
    assert not isinstance(plain(text.strip(" ")), str)


Steps = tuple[str | int, ...]


def _marks(node: yaml.Node, path: Steps = ()) -> dict[Steps, tuple[int, int]]:
    """Line and column of every scalar, as PyYAML's other parser, in Python, marks it."""
    if isinstance(node, yaml.ScalarNode):
        return {path: (node.start_mark.line + 1, node.start_mark.column + 1)}
    mapping = isinstance(node, yaml.MappingNode)
    items = [(k.value, v) for k, v in node.value] if mapping else list(enumerate(node.value))
    return {p: mark for step, below in items for p, mark in _marks(below, (*path, step)).items()}


TREES = st.dictionaries(
    WORDS,
    st.recursive(
        WORDS | st.text(min_size=1, max_size=20).filter(lambda t: t.isprintable() and plain(t) == t),
        lambda below: st.lists(below, max_size=4) | st.dictionaries(WORDS, below, max_size=4),
        max_leaves=12,
    ),
    min_size=1,
    max_size=5,
)


@given(
    st.lists(TREES, min_size=1, max_size=3),
    st.sampled_from([True, False, None]),
    st.integers(2, 5),
)
def test_every_scalar_is_found_where_it_is_written(trees: list[Any], flow: bool | None, indent: int) -> None:
    text = yaml.safe_dump_all(
        trees, default_flow_style=flow, indent=indent, explicit_start=True, allow_unicode=True, width=10_000
    )
    expected = list(yaml.compose_all(text, yaml.SafeLoader))
    for tree, composed, node in zip(trees, compose(text), expected, strict=True):
        places = Places("f")
        assert build(composed.node, places) == (tree, [])
        for path, mark in _marks(node).items():
            found = places.find(composed.node, path)
            assert (found.line, found.column) == mark


@given(st.lists(st.dictionaries(WORDS, WORDS, min_size=1, max_size=4), min_size=1, max_size=4))
def test_a_loaded_document_finds_its_fields_again(tmp_path_factory: Any, tags: list[dict[str, str]]) -> None:
    file = Path(tmp_path_factory.mktemp("places")) / "a.yaml"
    text = "# a comment\n" + "".join(
        "---\n# another\n"
        + yaml.safe_dump(
            {
                "apiVersion": "mlplatform.io/v1alpha1",
                "kind": "Experiment",
                "metadata": {"name": f"e{i}"},
                "spec": {"tags": of_one},
            }
        )
        for i, of_one in enumerate(tags)
    )
    file.write_text(text)
    lines = text.split("\n")
    for one, of_one in zip(load([file]).documents, tags, strict=True):
        for key, value in of_one.items():
            where = one.where("spec", "tags", key)
            assert lines[where.line - 1] == f"    {key}: {value}"
            assert where.column == len(f"    {key}: ") + 1
        assert lines[one.where().line - 1].startswith("apiVersion")


def test_as_much_of_a_path_as_is_written_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "apiVersion: mlplatform.io/v1alpha1\nkind: Experiment\nmetadata:\n  name: a\nspec:\n  tags: {}\n"
    )
    one = load([file]).documents[0]
    assert str(one.where("spec", "tags", "team", "x")) == f"{file}:6:3"
    assert str(one.where("spec", "description")) == f"{file}:5:1"
    assert str(one.where("nothing", 3)) == f"{file}:1:1"
