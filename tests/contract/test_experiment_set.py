"""ExperimentSet on a real server: its members are experiments like others."""

from __future__ import annotations

from mlflow_platform.plan.objects import Key, Mark
from tests.contract.access_loop import Folder, document, unique

pytest_plugins = ("tests.contract.access_fixtures",)

CREATE = "POST api/2.0/mlflow/experiments/create"


def test_a_set_through_its_whole_life(folder: Folder) -> None:
    stem = unique("set")
    doc = document(
        "ExperimentSet",
        stem,
        matrix={"brand": ["acme", "zenith"], "tier": ["gold", "silver", "bronze"]},
        exclude=[{"brand": "zenith", "tier": "bronze"}],
        template={
            "name": stem + "/{{ brand }}/{{ tier }}",
            "description": "Runs of {{ brand }}",
            "tags": {"brand": "{{ brand }}", "tier": "{{tier}}"},
        },
        deletionPolicy="Delete",
    )
    members = {
        f"{stem}/{brand}/{tier}"
        for brand in ("acme", "zenith")
        for tier in ("gold", "silver", "bronze")
        if (brand, tier) != ("zenith", "bronze")
    }
    assert set(folder.succeed(doc)) == {f"create {name}" for name in members}
    assert folder.api.requests == [CREATE] * 5, "one call a member"
    assert folder.succeed(doc) == []

    one = folder.observed(Key("Experiment", "default", f"{stem}/acme/gold"))
    assert one.fields["tags", "brand"] == "acme"
    assert one.fields["description",] == "Runs of acme"
    assert isinstance(one.mark, Mark)
    assert one.mark.origin == f"ExperimentSet/default/{stem}#{stem}/acme/gold"

    doc["spec"]["matrix"]["tier"].remove("bronze")
    doc["spec"]["exclude"] = []
    assert folder.succeed(doc) == [f"delete {stem}/acme/bronze"]
    doc["spec"]["matrix"]["tier"].append("bronze")
    assert sorted(folder.succeed(doc)) == [f"create {stem}/acme/bronze", f"create {stem}/zenith/bronze"]
    assert folder.plan(doc).empty


def test_a_member_is_imported_as_an_experiment_that_changes_nothing(folder: Folder) -> None:
    stem = unique("set")
    doc = document(
        "ExperimentSet", stem, matrix={"n": ["1"]}, template={"name": stem + " {{ n }}", "tags": {"a": "b"}}
    )
    folder.succeed(doc)
    again = folder.imported(Key("Experiment", "default", f"{stem} 1"))
    assert again is not None
    assert again["kind"] == "Experiment"
    assert again["spec"] == {"name": f"{stem} 1", "tags": {"a": "b"}}
    assert [c.reason for c in folder.plan(again).changes] == ["its mark is out of date"], "now of a document"
