"""Webhook: what is decided without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mlflow_platform.kinds.webhook import SECRET, Webhook
from mlflow_platform.model import Webhook as Document
from mlflow_platform.model.webhook import WebhookSpec
from mlflow_platform.plan.engine import make_plan
from mlflow_platform.plan.objects import Action, Change, Desired, Key, Observed, SecretRef

KIND = Webhook()
EVENTS = WebhookSpec.model_fields["events"].annotation.__args__[0].__args__  # type: ignore[union-attr]


def parse(document_name: str = "notify", **spec: object) -> Desired:
    whole = {"url": "https://example.com/hook", "events": ["prompt.created"], **spec}
    document = {"kind": "Webhook", "metadata": {"name": document_name, "namespace": "team"}, "spec": whole}
    [desired] = KIND.desired(Document.model_validate({"apiVersion": "mlplatform.io/v1alpha1", **document}))
    return desired


def test_a_document_becomes_one_webhook() -> None:
    desired = parse(
        events=["prompt.created", "model_version.created"],
        secretRef={"name": "hook", "key": "value"},
    )
    assert desired.key == Key("Webhook", "default", "notify")
    assert desired.fields == {
        ("url",): "https://example.com/hook",
        ("events",): "model_version.created,prompt.created",
        ("active",): True,
    }
    assert desired.secrets == {SECRET: SecretRef("hook", "value", "team")}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "two words"}, "MLflow takes no webhook named 'two words'"),
        ({"name": "-x"}, "MLflow takes no webhook named '-x'"),
        ({"name": "x" * 64}, "at most 63 characters"),
        ({"events": ["model_version.exploded"]}, "model_version.created"),
        ({"events": []}, "at least 1 item"),
        ({"url": "ftp://example.com"}, "pattern"),
    ],
)
def test_what_mlflow_would_refuse_is_a_mistake(spec: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        parse(**spec)


def test_a_long_document_name_is_a_mistake_too() -> None:
    with pytest.raises(ValidationError, match="at most 63 characters"):
        parse("x" * 64)


def test_events_are_mlflows() -> None:
    from mlflow.entities.webhook import VALID_ENTITY_ACTIONS

    assert set(EVENTS) == {f"{e}.{a}" for e, actions in VALID_ENTITY_ACTIONS.items() for a in actions}


def test_of_several_with_one_name_none_is_touched() -> None:
    key = Key("Webhook", "default", "notify")
    for action in (Action.UPDATE, Action.ADOPT, Action.DELETE):
        problem = KIND.review(Change(action, key, "o", "why", handle={"ids": ["a", "b"]}), {})
        assert problem is not None
        assert problem.what.startswith("2 webhooks are named 'notify': a, b; ")
        assert KIND.review(Change(action, key, "o", "why", handle={"ids": ["a"]}), {}) is None


def test_a_second_one_with_equal_fields_still_shows_in_a_plan() -> None:
    desired = parse()
    twins = Observed(
        desired.key, {**desired.fields, ("webhooks with this name",): "a, b"}, handle={"ids": ["a", "b"]}
    )
    plan = make_plan([desired], [twins], owner="me", traits={KIND.name: KIND.traits})
    assert [f.path for c in plan.changes for f in c.fields] == [("webhooks with this name",)]
    assert KIND.document(twins) is None
    said = KIND.left_out(twins)
    assert said is not None
    assert said.startswith("Webhook 'notify' has no document: 2 webhooks are named 'notify': a, b; ")
    assert KIND.left_out(Observed(desired.key, desired.fields, handle={"ids": ["a"]})) is None


@given(
    st.from_regex(r"\A[a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?\Z"),
    st.sampled_from(["default", "team"]),
    st.sets(st.sampled_from(EVENTS), min_size=1),
    st.one_of(st.none(), st.text(min_size=1, max_size=1000)),
    st.booleans(),
)
def test_a_document_of_an_observed_webhook_wants_what_was_observed(
    name: str, workspace: str, events: set[str], description: str | None, active: bool
) -> None:
    observed = Observed(
        Key("Webhook", workspace, name),
        {
            ("url",): "https://example.com/hook",
            ("events",): ",".join(sorted(events)),
            ("active",): active,
            **({("description",): description} if description else {}),
        },
        handle={"ids": ["a"]},
    )
    document = KIND.document(observed)
    assert document is not None
    [desired] = KIND.desired(Document.model_validate(document))
    assert (desired.key, desired.fields) == (observed.key, observed.fields)


def test_a_url_with_a_login_is_not_written_into_a_document() -> None:
    desired = parse()
    found = Observed(desired.key, {**desired.fields, ("url",): "https://user:hidden@hooks.example.com/x"})
    assert KIND.document(found) is None
    said = KIND.left_out(found)
    assert said is not None
    assert "its URL holds a login" in said
    assert "hidden" not in said
