"""Documents as the API server has them: read, judged, and what of a plan is carried out."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_platform.apply.ledger import Ledger
from mlflow_platform.apply.rounds import Round
from mlflow_platform.errors import Problem
from mlflow_platform.model.crd import FINALIZER
from mlflow_platform.model.tracking_server import Allowance, NamespaceSelector
from mlflow_platform.operator.conditions import Reason
from mlflow_platform.operator.entries import ABANDON, Entry, contested, read
from mlflow_platform.operator.judging import Verdicts, judge, restrict
from mlflow_platform.operator.tenancy import selects
from mlflow_platform.plan.engine import Plan
from mlflow_platform.plan.objects import Action, Change, Key, ObjectProblem

OPS = "ops"


def raw(name: str, kind: str = "Experiment", namespace: str = OPS, **more: Any) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}",
        "resourceVersion": "7",
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **more.pop("metadata", {}),
    }
    return {"metadata": metadata, "spec": {}, **more}


def entry(name: str, kind: str = "Experiment", namespace: str = OPS, **more: Any) -> Entry:
    return read(kind, raw(name, kind, namespace, **more))


def test_what_a_document_is_read_as() -> None:
    found = entry("a", spec={"server": "eu", "deletionPolicy": "Delete"}, metadata={"labels": {"x": "y"}})
    assert (found.origin, found.server, found.wants_delete, found.held) == (
        "Experiment/ops/a",
        "eu",
        True,
        False,
    )
    assert [d.key for d in found.desired] == [Key("Experiment", "default", "a")]
    server = entry("s", "TrackingServer", spec={"trackingUri": "http://x"})
    assert server.mistake is None
    assert server.desired == ()


def test_a_mistaken_one_says_all_its_mistakes_and_remedies() -> None:
    spec = {"matrix": {"tier": ["a"]}, "template": {"name": "{{ tear }}"}, "exclude": [{"x": "y"}]}
    found = entry("a", "ExperimentSet", spec=spec)
    assert found.document is None
    assert found.mistake is not None
    assert "spec.template.name: the placeholder {{ tear }} names no axis" in found.mistake.what
    assert "spec.exclude[0].x: exclude names the axis x" in found.mistake.what
    assert "did you mean tier?" in found.mistake.remedy
    assert entry("b", spec={"tags": {"mlflow.x": "y"}}).mistake is not None


def test_what_was_read_is_read_again_only_where_it_changed() -> None:
    first = entry("a", spec={"tags": {"k": "v"}})
    status_only = raw("a", spec={"tags": {"k": "v"}}, status={"observedGeneration": 1})
    again = read("Experiment", status_only, first)
    assert again.document is first.document
    assert again.same_work(first)
    annotated = raw(
        "a", spec={"tags": {"k": "v"}}, metadata={"annotations": {"mlplatform.io/allow-replace": "true"}}
    )
    other = read("Experiment", annotated, first)
    assert other.document is not first.document
    assert not other.same_work(first)
    foreign = raw("a", spec={"tags": {"k": "v"}}, metadata={"annotations": {"who": "else"}})
    assert read("Experiment", foreign, first).same_work(first)


def test_the_older_of_two_documents_has_the_object_whatever_their_kinds() -> None:
    young = entry("b", spec={"name": "x"}, metadata={"creationTimestamp": "2026-01-02T00:00:00Z"})
    old = entry("a", spec={"name": "x"})
    assert set(contested([young, old])) == {"Experiment/ops/b"}
    model, prompt = (
        entry("m", "RegisteredModel", spec={"name": "x"}),
        entry("p", "Prompt", spec={"name": "x"}),
    )
    assert set(contested([prompt, model])) == {"Prompt/ops/p"}
    members = {"matrix": {"t": ["x", "y"]}, "template": {"name": "{{ t }}"}}
    a_set = entry("s", "ExperimentSet", spec=members, metadata={"creationTimestamp": "2026-01-03T00:00:00Z"})
    assert set(contested([a_set, old])) == {"ExperimentSet/ops/s"}


def test_judging_puts_every_document_in_one_place() -> None:
    entries = [
        entry("live"),
        entry("wrong", spec={"tags": {"mlflow.x": "y"}}),
        entry("tenant", namespace="team"),
        entry("going", metadata={"deletionTimestamp": "2026-01-02T00:00:00Z", "finalizers": [FINALIZER]}),
    ]
    judged = judge(entries, None, [], {"team": {}}, OPS)
    assert set(judged.live) == {"Experiment/ops/live"}
    reasons = {origin: outcome.reason for origin, (_, outcome) in judged.refused.items()}
    assert reasons == {"Experiment/ops/wrong": Reason.INVALID, "Experiment/team/tenant": Reason.NOT_ALLOWED}
    assert set(judged.deleting) == {"Experiment/ops/going"}


def change(action: Action, origin: str, base: str = "there") -> Change:
    return Change(action, Key("Experiment", "default", origin), origin, "", base=base)


def given_up(
    action: Action, name: str, *entries: Entry, base: str = "there", elsewhere: str = ""
) -> Action | None:
    plan = Plan("k8s:x", (change(action, f"Experiment/ops/{name}", base),))
    restricted = restrict(plan, judge(entries, None, [], {}, OPS), None, {elsewhere})
    return restricted.changes[0].action if restricted.changes else None


def going(**annotations: str) -> Entry:
    metadata = {
        "deletionTimestamp": "2026-01-02T00:00:00Z",
        "finalizers": [FINALIZER],
        "annotations": annotations,
    }
    return entry("a", metadata=metadata, spec={"deletionPolicy": "Delete"})


def test_an_object_is_deleted_only_while_its_document_is_there_and_says_so() -> None:
    assert given_up(Action.DELETE, "a", going()) is Action.DELETE
    assert given_up(Action.FORGET, "a", going()) is Action.DELETE  # the policy changed last
    assert given_up(Action.FORGET, "a", going(), base="absent") is Action.FORGET
    assert given_up(Action.DELETE, "a", going(**{ABANDON: "true"})) is Action.FORGET
    assert given_up(Action.DELETE, "a") is Action.FORGET  # it has vanished, finalizer or not
    assert given_up(Action.DELETE, "a#member", entry("a")) is Action.DELETE
    assert given_up(Action.DELETE, "a", entry("a", spec={"tags": {"mlflow.x": "y"}})) is None
    assert given_up(Action.FORGET, "a", elsewhere="Experiment/ops/a") is None


def test_a_scoped_plan_touches_what_it_was_made_for() -> None:
    plan = Plan(
        "k8s:x", (change(Action.UPDATE, "Experiment/ops/a"), change(Action.FORGET, "Experiment/ops/b"))
    )
    judged = judge([entry("a")], None, [], {}, OPS)
    assert [c.origin for c in restrict(plan, judged, {"Experiment/ops/a"}).changes] == ["Experiment/ops/a"]


def tenant(prefix: str, *kinds: str, **selector: Any) -> Allowance:
    fields = {"namespaceSelector": selector, "kinds": [*kinds], "namePrefixes": [prefix]}
    return Allowance.model_validate(fields)


def test_what_may_not_be_declared_takes_nobodys_place() -> None:
    squatter = entry("a", namespace="stranger", spec={"name": "wanted"})
    younger = {"creationTimestamp": "2026-01-02T00:00:00Z"}
    wanted = entry("b", spec={"name": "wanted"}, metadata=younger)
    judged = judge([squatter, wanted], None, [], {"stranger": {}}, OPS)
    assert set(judged.live) == {"Experiment/ops/b"}
    assert judged.refused["Experiment/stranger/a"][1].reason is Reason.NOT_ALLOWED


def test_a_namespace_whose_labels_are_not_known_is_selected_by_nothing() -> None:
    allowed = [tenant("", "Experiment", matchExpressions=[{"key": "guest", "operator": "DoesNotExist"}])]
    new = entry("a", namespace="new")
    assert judge([new], None, allowed, {}, OPS).refused[new.origin][1].reason is Reason.WAITING
    assert new.origin in judge([new], None, allowed, {"new": {"guest": "1"}}, OPS).refused
    assert new.origin in judge([new], None, allowed, {"new": {}}, OPS).live


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (Key("Experiment", "default", "a/x"), Action.DELETE),
        (Key("Experiment", "default", "b/x"), Action.FORGET),
        (Key("Experiment", "other", "a/x"), Action.FORGET),
        (Key("RegisteredModel", "default", "a/x"), Action.FORGET),
    ],
)
@pytest.mark.parametrize("deleted", [False, True])
def test_a_mark_gives_a_tenants_document_no_right_to_an_object(
    key: Key, expected: Action, deleted: bool
) -> None:
    """Whoever may edit an object in MLflow can write a mark on it."""
    going = {"deletionTimestamp": "2026-01-02T00:00:00Z", "finalizers": [FINALIZER]} if deleted else {}
    mine = entry("e", namespace="t", metadata=going, spec={"name": "a/e", "deletionPolicy": "Delete"})
    judged = judge([mine], None, [tenant("a/", "Experiment", "RegisteredModel")], {"t": {}}, OPS)
    plan = Plan("k8s:x", (Change(Action.DELETE, key, mine.origin, "", base="there"),))
    assert [c.action for c in restrict(plan, judged).changes] == [expected]


def test_a_tenant_is_not_told_names_of_others() -> None:
    target = Key("Experiment", "default", "a/secret")
    for namespace, told in ((OPS, True), ("t", False)):
        mine = entry("a-x", namespace=namespace)
        judged = judge([mine], None, [tenant("a-", "Experiment")], {"t": {}}, OPS)
        problem = Problem(f"there is no {target}", "did you mean: b/secret?")
        found = ObjectProblem(mine.desired[0].key, mine.origin, problem, blocked=True)
        plan = Plan("k8s:x", (), (found,))
        outcome, _ = Verdicts(Round(plan, mine.desired, {}, Ledger(None, "")), plan, judged).of(mine)
        assert ("b/secret" in outcome.message) is told


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ({}, {}, True),
        ({"matchLabels": {"a": "b"}}, {"a": "b", "c": "d"}, True),
        ({"matchLabels": {"a": "b"}}, {"a": "c"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["x", "y"]}]}, {"a": "y"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["x"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["x"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
    ],
)
def test_selectors_are_read_as_kubernetes_reads_them(
    selector: dict[str, Any], labels: dict[str, str], expected: bool
) -> None:
    assert selects(NamespaceSelector.model_validate(selector), labels) is expected


def test_one_entry_must_permit_the_whole_document() -> None:
    """Two entries are not added up: a kind of one with a name of the other is nobody's grant."""
    allowed = [
        Allowance.model_validate({"namespaceSelector": {}, "kinds": ["Prompt"], "namePrefixes": ["a-"]}),
        Allowance.model_validate({"namespaceSelector": {}, "kinds": ["Experiment"], "namePrefixes": ["b-"]}),
    ]
    found = judge([entry("a-x", namespace="t"), entry("b-x", namespace="t")], None, allowed, {"t": {}}, OPS)
    assert set(found.live) == {"Experiment/t/b-x"}
    assert set(found.refused) == {"Experiment/t/a-x"}
