"""Experiment and ExperimentSet without a server."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_platform.errors import BadInput, Rejected
from mlflow_platform.kinds.experiment import Experiment
from mlflow_platform.kinds.experiment_set import ExperimentSet
from mlflow_platform.kinds.tagged import MAX_OPTIONAL
from mlflow_platform.model import DOCUMENTS
from mlflow_platform.plan.engine import mark_for
from mlflow_platform.plan.objects import MARK_MAX_LENGTH, Action, Change, Desired, Key, Mark, Observed


def desired(kind: str, **spec: Any) -> list[Desired]:
    document = {
        "apiVersion": "mlplatform.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": "doc", "annotations": {"mlplatform.io/allow-replace": "true"}},
        "spec": spec,
    }
    kinds = {"Experiment": Experiment(), "ExperimentSet": ExperimentSet()}
    return list(kinds[kind].desired(DOCUMENTS[kind].model_validate(document)))


def test_exactly_what_a_document_says() -> None:
    (empty,) = desired("Experiment")
    assert (empty.key, empty.fields, empty.requires) == (Key("Experiment", "default", "doc"), {}, frozenset())
    (full,) = desired(
        "Experiment",
        name="a/b",
        workspace="team-a",
        description="d",
        tags={"x.y": "1"},
        artifactLocation="s3://b/p",
        grants=[{"user": "ann", "permission": "READ"}],
        deletionPolicy="Delete",
        managementPolicy="ObserveOnly",
    )
    assert full.key == Key("Experiment", "team-a", "a/b")
    assert full.fields == {
        ("description",): "d",
        ("tags", "x.y"): "1",
        ("artifactLocation",): "s3://b/p",
        ("grants", "ann"): "READ",
    }
    assert full.requires == {Key("Workspace", "", "team-a"), Key("MLflowUser", "", "ann")}
    assert (full.deletion, full.observe_only, full.allow_replace) == ("Delete", True, True)


def test_members_of_a_set() -> None:
    found = desired(
        "ExperimentSet",
        matrix={"a": ["1", "2"], "b": ["x"]},
        template={"name": "{{ a }}/{{ b }}", "tags": {"a": "{{ a }}"}},
    )
    assert [(d.key, d.origin, d.fields) for d in found] == [
        (Key("Experiment", "default", f"{a}/x"), f"ExperimentSet/default/doc#{a}/x", {("tags", "a"): a})
        for a in ("1", "2")
    ]


def test_the_mark_of_the_largest_document_fits() -> None:
    grants = [{"user": f"user{i}", "permission": "READ"} for i in range(200)]
    (most,) = desired("Experiment", tags={f"k{i}": "v" for i in range(64)}, grants=grants, description="d")
    longest = "k8s:" + "f" * 36, f"Experiment/{'n' * 63}/{'m' * 253}"
    mark = mark_for(most, longest[0], Experiment.traits)
    text = Mark(mark.owner, longest[1], "Delete", mark.paths, intent=True).to_text()
    assert len(text) <= MARK_MAX_LENGTH
    paths = frozenset(f"{i:08x}" for i in range(MAX_OPTIONAL))
    assert len(Mark(longest[0], longest[1], "Delete", paths, intent=True).to_text()) <= MARK_MAX_LENGTH


def observed(**changes: Any) -> Observed:
    fields = {("artifactLocation",): "s3://root/7", ("tags", "mlflow.x"): "1", ("tags", "a"): "b"}
    values: dict[str, Any] = {
        "key": Key("Experiment", "default", "A b"),
        "fields": fields,
        "handle": {"id": "7", "mark": None},
    }
    return Observed(**{**values, **changes})


def test_import_leaves_out_what_nobody_declared() -> None:
    document = Experiment().document(observed())
    assert document is not None
    assert document["spec"] == {"name": "A b", "tags": {"a": "b"}}
    assert DOCUMENTS["Experiment"].model_validate(document)
    assert Experiment().document(observed(handle={"id": "0"})) is None, "MLflow's default experiment"
    assert Experiment().document(observed(soft_deleted=True)) is None


def test_import_keeps_within_the_bounds_of_a_document() -> None:
    fields: dict[Any, Any] = {("tags", f"k{i:03}"): "v" for i in range(100)}
    fields |= {("tags", "a"): "x" * 5001, ("description",): "x" * 5001}
    fields[("artifactLocation",)] = "s3://chosen/" + "x" * 200
    document = Experiment().document(observed(fields=fields))
    assert document is not None
    assert set(document["spec"]) == {"name", "tags"}
    assert len(document["spec"]["tags"]) == 64
    assert DOCUMENTS["Experiment"].model_validate(document)
    said = Experiment().left_out(observed(fields=fields))
    assert said is not None
    assert said.startswith(
        "Experiment 'A b': left out: the description (longer than 5000 characters), the tags a,"
    )
    assert said.endswith(", its artifactLocation (longer than 157 characters)")


def test_what_is_declared_in_full_or_is_mlflows_own_is_not_said_to_be_left_out() -> None:
    assert Experiment().left_out(observed()) is None
    assert Experiment().left_out(observed(handle={"id": "0"}, fields={("description",): "x" * 6000})) is None


def test_an_export_keeps_the_document_of_its_owner() -> None:
    mark = Mark("project:x", "Experiment/team/my-doc", "Delete")
    document = Experiment().document(observed(mark=mark))
    assert document is not None
    assert document["metadata"] == {"name": "my-doc", "namespace": "team"}
    assert document["spec"]["deletionPolicy"] == "Delete"


def test_a_location_is_refused_where_workspaces_are_on_before_the_first_call() -> None:
    (want,) = desired("Experiment", artifactLocation="s3://b/p")
    mark = mark_for(want, "me", Experiment.traits)
    from mlflow_platform.plan.engine import make_plan

    (change,) = make_plan([want], [], owner="me", traits={"Experiment": Experiment.traits}).changes
    assert (change.action, change.mark) == (Action.CREATE, mark)
    with pytest.raises(Rejected, match="not allowed where workspaces are on"):
        Experiment().execute(_NoApi(), change, {}, "team-a")


def test_a_set_itself_is_never_changed() -> None:
    change = Change(Action.CREATE, Key("ExperimentSet", "default", "s"), "", "")
    with pytest.raises(Rejected):
        ExperimentSet().execute(_NoApi(), change, {}, None)


class _NoApi:
    def call(self, method: str, path: str, **_: Any) -> Any:
        raise AssertionError(f"{method} {path} was called")


def test_too_many_optional_fields() -> None:
    from mlflow_platform.kinds.tagged import check_optional

    fields: dict[Any, Any] = {("tags", str(i)): "v" for i in range(MAX_OPTIONAL + 1)}
    with pytest.raises(BadInput, match="at most"):
        check_optional(fields, Experiment.traits)
