"""The members of a set: exactly the combinations that are not excluded, filled in everywhere."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mlflow_platform.model.experiment_set import ExperimentSet, ExperimentSetSpec

MATRIX: dict[str, Any] = {"brand": ["a", "b"], "tier": ["x", "z"]}


def make(**spec: Any) -> ExperimentSetSpec:
    whole = {"matrix": MATRIX, "template": {"name": "{{ brand }}/{{ tier }}"}} | spec
    return ExperimentSet.model_validate({"metadata": {"name": "s"}, "spec": whole}).spec


def test_a_member_is_the_template_filled_in() -> None:
    spec = make(
        deletionPolicy="Delete",
        server="other",
        exclude=[{"brand": "b"}],
        template={
            "name": "{{brand}}/{{   tier }}",
            "workspace": "ws-{{ brand }}",
            "description": "{{ tier }} of {{ tier }}",
            "tags": {"brand": "{{ brand }}", "team": "fixed"},
            "artifactLocation": "s3://bucket/{{ brand }}",
            "grants": [{"user": "bot-{{ brand }}", "permission": "EDIT"}],
        },
    )
    (first, member), (second, _) = spec.members()
    assert (first, second) == ({"brand": "a", "tier": "x"}, {"brand": "a", "tier": "z"})
    assert member.model_dump(exclude_none=True) == {
        "name": "a/x",
        "server": "other",
        "deletionPolicy": "Delete",
        "managementPolicy": "Full",
        "workspace": "ws-a",
        "description": "x of x",
        "tags": {"brand": "a", "team": "fixed"},
        "artifactLocation": "s3://bucket/a",
        "grants": [{"user": "bot-a", "permission": "EDIT"}],
    }
    assert list(spec.names()) == ["a/x", "a/z"]


AXES = st.dictionaries(
    st.sampled_from(["one", "two", "three", "four"]),
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True),
    min_size=1,
    max_size=4,
)


@st.composite
def sets(draw: st.DrawFn) -> tuple[dict[str, list[str]], list[dict[str, str]]]:
    axes = draw(AXES)
    entry = st.fixed_dictionaries(
        {}, optional={axis: st.sampled_from(values) for axis, values in axes.items()}
    )
    return axes, draw(st.lists(entry.filter(bool), max_size=4))


@given(sets())
def test_members_are_the_product_without_what_is_excluded(
    made: tuple[dict[str, list[str]], list[dict[str, str]]],
) -> None:
    axes, exclude = made
    expected = [
        values
        for chosen in itertools.product(*axes.values())
        if (values := dict(zip(axes, chosen, strict=True)))
        and not any(all(values[a] == v for a, v in entry.items()) for entry in exclude)
    ]
    template = {"name": "-".join(f"{{{{ {axis} }}}}" for axis in axes)}
    if not expected:
        with pytest.raises(ValidationError, match="every member is excluded"):
            make(matrix=axes, template=template, exclude=exclude)
        return
    spec = make(matrix=axes, template=template, exclude=exclude)
    assert [values for values, _ in spec.members()] == expected
    assert [member.name for _, member in spec.members()] == ["-".join(v.values()) for v in expected]
    assert list(spec.names()) == [member.name for _, member in spec.members()]


def test_combinations_are_lazy() -> None:
    spec = ExperimentSetSpec.model_construct(
        matrix={c: [str(i) for i in range(5000)] for c in "abcdefgh"}, exclude=[]
    )
    assert next(spec.combinations()) == dict.fromkeys("abcdefgh", "0")


#: Each would take minutes, hours or gigabytes if its cost were not bounded: documents are anybody's.
HOSTILE: dict[str, dict[str, Any]] = {
    "is not closed": {
        "template": {"name": "{{ brand }}/{{ tier }}", "tags": {f"k{i}": "{{" + " " * 4990 for i in range(9)}}
    },
    "which the axis a does not have": {
        "matrix": {"a": [f"v{i:04}" + "ab" * 60 for i in range(5000)]},
        "template": {"name": "{{ a }}"},
        "exclude": [{"a": f"w{i:04}" + "ba" * 60} for i in range(1000)],
    },
    "the members have 1,320,000 tags and grants": {
        "matrix": {"a": [f"v{i:04}" for i in range(5000)]},
        "template": {
            "name": "{{ a }}",
            "tags": {f"k{i}": "x" for i in range(64)},
            "grants": [{"user": f"u{i}", "permission": "READ"} for i in range(200)],
        },
    },
    "texts with placeholders make 62": {
        "matrix": {"a": [f"v{i:04}" + "x" * 120 for i in range(2500)]},
        "template": {
            "name": "{{ a }}",
            "description": "{{a}}" * 39,
            "tags": {f"k{i}": "{{a}}" * 39 for i in range(50)},
        },
    },
    "the matrix makes 99,856 members": {
        "matrix": {a: [f"v{i:03}" for i in range(316)] for a in ("a", "b")},
        "template": {"name": "{{ a }}/{{ b }}", "tags": {f"k{i}": "x" * 5000 for i in range(5)}},
    },
}


@pytest.mark.parametrize("words", HOSTILE)
def test_a_hostile_document_is_refused_at_a_bounded_cost(words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        make(**HOSTILE[words])
    assert words in str(refused.value)
