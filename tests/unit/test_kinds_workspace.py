"""Workspace: what is decided without a server."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from mlflow_platform.kinds.workspace import ARTIFACT_ROOT, DESCRIPTION, Workspace
from mlflow_platform.model import Workspace as Document
from mlflow_platform.plan.engine import make_plan
from mlflow_platform.plan.objects import Action, Change, Desired, FieldChange, Key, Observed

KIND = Workspace()


def parse(name: str = "team", **spec: object) -> Desired:
    document = {"kind": "Workspace", "metadata": {"name": name}, "spec": spec}
    [desired] = KIND.desired(Document.model_validate({"apiVersion": "mlplatform.io/v1alpha1", **document}))
    return desired


def test_a_document_becomes_one_workspace_and_manages_what_it_says() -> None:
    assert parse().key == Key("Workspace", "", "team")
    assert parse().fields == {}
    assert parse(description="ours", defaultArtifactRoot="s3://b/t").fields == {
        DESCRIPTION: "ours",
        ARTIFACT_ROOT: "s3://b/t",
    }


@pytest.mark.parametrize("name", ["a", "x" * 64, "a.b", "api", "ajax-api", "workspaces", "static-files"])
def test_a_name_that_mlflow_would_refuse_is_a_mistake(name: str) -> None:
    with pytest.raises(ValidationError, match="MLflow"):
        parse(name)


def test_reserved_names_are_mlflows() -> None:
    from mlflow.store.workspace.abstract_store import WorkspaceNameValidator

    for name in WorkspaceNameValidator._RESERVED:
        with pytest.raises(ValidationError, match="reserves"):
            parse(name)


def test_the_default_workspace_is_never_deleted() -> None:
    key = Key("Workspace", "", "default")
    problem = KIND.review(Change(Action.DELETE, key, "o", "why"), {})
    assert problem is not None
    assert problem.what == "the workspace 'default' cannot be deleted"
    described = Change(Action.UPDATE, key, "o", "why", (FieldChange(DESCRIPTION, None, "x"),))
    assert KIND.review(described, {}) is None
    assert KIND.document(Observed(key, {DESCRIPTION: "x"})) is None


def test_a_document_of_an_observed_workspace_plans_empty() -> None:
    observed = Observed(Key("Workspace", "", "team"), {DESCRIPTION: None, ARTIFACT_ROOT: "s3://b/t"})
    document = KIND.document(observed)
    assert document == {
        "apiVersion": "mlplatform.io/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": "team"},
        "spec": {"defaultArtifactRoot": "s3://b/t"},
    }
    wanted = list(KIND.desired(Document.model_validate(document)))
    assert make_plan(wanted, [observed], owner="me", traits={KIND.name: KIND.traits}).empty
