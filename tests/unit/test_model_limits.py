"""Our rules against MLflow's own functions: a document may say what MLflow takes, and nothing else."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from mlflow_platform.config import load
from mlflow_platform.model import DOCUMENTS
from mlflow_platform.model.base import PATTERNS, Document
from mlflow_platform.model.fields import RESERVED_TAG_PREFIXES, AliasName, TagKey
from mlflow_platform.model.role import RolePermission
from mlflow_platform.model.schema import kind_schema
from mlflow_platform.model.webhook import Event

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own code is deprecated by SQLAlchemy 2.1 in places
    from mlflow.entities.webhook import WebhookEventStr
    from mlflow.exceptions import MlflowException
    from mlflow.prompt import constants
    from mlflow.server.auth import permissions
    from mlflow.server.auth.db import models as auth
    from mlflow.server.handlers import _validate_source_run
    from mlflow.store.model_registry.dbmodels import models as registry
    from mlflow.store.tracking.dbmodels import models as tracking
    from mlflow.utils import mlflow_tags, validation


def document(kind: str, **spec: Any) -> Document:
    return DOCUMENTS[kind].model_validate({"kind": kind, "metadata": {"name": "a"}, "spec": spec})


def ours(make: Callable[[], object]) -> bool:
    try:
        make()
    except ValidationError:
        return False
    return True


def theirs(check: Callable[[], object]) -> bool:
    try:
        check()
    except MlflowException:
        return False
    return True


#: Also what is a letter or a digit to one reader of patterns only: a mark, a fraction, a tie.
NAMES = st.text("abzAZ019/:. _-é\t\u0301½\u203f\u0663", min_size=1, max_size=8)


class Key(BaseModel):
    value: TagKey


class AliasOnly(BaseModel):
    value: AliasName


@given(NAMES)
def test_tag_keys(key: str) -> None:
    assert ours(lambda: Key(value=key)) == theirs(lambda: validation._validate_tag_name(key))


@given(NAMES)
def test_model_names(name: str) -> None:
    mine = ours(lambda: document("RegisteredModel", name=name))
    assert mine == theirs(lambda: validation._validate_model_name(name))


@given(NAMES)
def test_prompt_names(name: str) -> None:
    mine = ours(lambda: document("Prompt", name=name))
    # the rule's $ also matches before a line end; the server then checks a model's name
    their = bool(constants.PROMPT_NAME_RULE.fullmatch(name)) and theirs(
        lambda: validation._validate_model_name(name)
    )
    assert mine == their


@given(NAMES | st.sampled_from(["latest", "LATEST", "v1", "V22", "v", "vx1", "latest2"]))
def test_aliases(name: str) -> None:
    def check() -> None:
        validation._validate_model_alias_name(name)
        validation._validate_model_alias_name_reserved(name)

    assert ours(lambda: AliasOnly(value=name)) == theirs(check)


@given(NAMES)
def test_webhook_names(name: str) -> None:
    mine = ours(lambda: document("Webhook", name=name, url="https://a", events=["prompt.created"]))
    assert mine == theirs(lambda: validation._validate_webhook_name(name))


def test_webhook_events() -> None:
    assert set(get_args(Event)) == set(get_args(WebhookEventStr))


def test_permissions_of_every_type() -> None:
    types = get_args(RolePermission.model_fields["resourceType"].annotation)
    assert set(types) == set(permissions.VALID_RESOURCE_TYPES)
    for type_ in types:
        for permission in permissions.ALL_PERMISSIONS:
            for resource in ("*", "e/x"):
                spec = {"resourceType": type_, "resource": resource, "permission": permission}

                def check(type_: str = type_, permission: str = permission, resource: str = resource) -> None:
                    permissions._validate_permission_for_resource_type(permission, type_)
                    permissions._validate_resource_pattern(resource, type_)

                mine = ours(lambda spec=spec: document("MLflowRole", permissions=[spec]))
                assert mine == theirs(check), spec


@pytest.mark.parametrize(
    "source",
    [
        "s3://bucket/model",
        "runs:/abc/model",
        "s3://bucket/a/../model",
        "s3://bucket/a/%2e%2e/model",
        "gs://bucket/model",
        "mlflow-artifacts:/1/model",
        "mlflow-artifacts://host/1/model",
        "/srv/model",
        "file:///srv/model",
        "model",
    ],
)
def test_sources_of_versions_without_a_run(source: str) -> None:
    mine = ours(lambda: document("RegisteredModel", versions=[{"key": "v", "source": source}]))
    assert mine == theirs(lambda: _validate_source_run(source, ""))


def test_what_the_examples_name_is_taken_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = []
    resolve = socket.getaddrinfo

    def numeric_only(host: str, *rest: Any, **named: Any) -> Any:
        looked_up.append(host)
        return resolve(host, None, flags=socket.AI_NUMERICHOST)

    monkeypatch.setattr(socket, "getaddrinfo", numeric_only)
    found = [one.document for one in load([Path(__file__).parents[2] / "manifests" / "examples"]).documents]
    sources = [v.source for d in found if d.kind == "RegisteredModel" for v in d.spec.versions]
    assert [s for s in sources if not theirs(lambda s=s: _validate_source_run(s, ""))] == []
    hooks = [d.spec.url for d in found if d.kind == "Webhook"]
    assert [url for url in hooks if not theirs(lambda url=url: validation._validate_webhook_url(url))] == []
    assert len(looked_up) == len(hooks) > 0


def test_lengths_are_the_smaller_of_mlflows_checks_and_columns() -> None:
    def longest(kind: str, *path: str) -> int:
        field = kind_schema(kind)["properties"]["spec"]
        for step in path:
            field = field["properties"][step] if "properties" in field else field["items"]["properties"][step]
        return int(field["maxLength"])

    def column(table: Any, name: str) -> int:
        return int(table.__table__.columns[name].type.length)

    assert longest("Experiment", "name") == column(tracking.SqlExperiment, "name")
    assert longest("RegisteredModel", "name") == column(registry.SqlRegisteredModel, "name")
    assert longest("RegisteredModel", "description") == column(registry.SqlRegisteredModel, "description")
    assert longest("RegisteredModel", "versions", "source") == column(registry.SqlModelVersion, "source")
    assert longest("RegisteredModel", "versions", "runId") == column(registry.SqlModelVersion, "run_id")
    assert longest("Webhook", "url") == column(registry.SqlWebhook, "url")
    assert longest("Webhook", "description") == column(registry.SqlWebhook, "description")
    assert longest("MLflowUser", "name") == column(auth.SqlUser, "username")
    assert longest("MLflowRole", "name") == column(auth.SqlRole, "name")
    assert longest("MLflowRole", "description") == column(auth.SqlRole, "description")
    assert longest("Experiment", "artifactLocation") == column(tracking.SqlRun, "artifact_uri") - len(
        "/" + "0" * 32 + "/artifacts"
    )


def test_tags_that_mlflow_writes_are_reserved() -> None:
    found = [v for k, v in vars(constants).items() if k.endswith("_TAG_KEY")]
    found += [v for k, v in vars(mlflow_tags).items() if k.startswith("MLFLOW_") and str(v).startswith("mlf")]
    assert len(found) > 50
    assert [tag for tag in found if not str(tag).startswith(RESERVED_TAG_PREFIXES)] == []


def _schemas(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _schemas(below)


def test_every_pattern_has_words_and_everything_has_a_bound_and_a_description() -> None:
    for kind in DOCUMENTS:
        schema = kind_schema(kind)
        for part in _schemas({k: v for k, v in schema["properties"].items() if k != "status"}):
            patterns = {part.get("pattern"), *part.get("patternProperties", ())} - {None}
            assert patterns <= PATTERNS.keys(), kind
            match part.get("type"):
                case "string" if "enum" not in part and "const" not in part:
                    assert "maxLength" in part, (kind, part)
                case "array":
                    assert "maxItems" in part, (kind, part)
                case "object" if "properties" not in part:
                    assert "maxProperties" in part, (kind, part)
            for name, field in part.get("properties", {}).items():
                if isinstance(field, dict) and "type" in field:
                    assert field.get("description"), (kind, name)
