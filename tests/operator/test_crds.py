"""What kube-apiserver takes and refuses, against what the models do."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.errors import Rejected
from mlflow_platform.model import DOCUMENTS
from mlflow_platform.model.base import API_VERSION
from tests.cluster import clusters
from tests.faults.test_documents import ROWS

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]

#: Rows of the table of bad documents that kube-apiserver lets pass, and why CEL cannot tell.
LET_PASS = {
    "A schedule that is none": "CEL counts no fields of cron",
    "An empty value": "null is dropped before anything is checked",
    "A source with ..": "CEL decodes no %2e",
    "Two prompt versions of one content": "compares every pair of texts of 100,000 characters",
    **dict.fromkeys(
        (
            "A placeholder of no axis",
            "A placeholder that is open",
            "An axis that is not in the name",
            "Two members of one name",
            "A member whose name is too long",
            "Everything is excluded",
            "A member with a reserved name",
            "A user granted twice in a member",
            "A member that is Default is to be deleted",
        ),
        "CEL makes no members of a set",
    ),
}


def refusal(cluster: Cluster, document: Json) -> str:
    """What the API server says against a document; empty where it takes it. Nothing is kept."""
    model = DOCUMENTS[document["kind"]]
    wanted = {**document, "metadata": dict(document["metadata"])}
    if model.scope == "Namespaced":
        wanted["metadata"].setdefault("namespace", "default")
    try:
        cluster.create(wanted, dry_run=True)
    except Rejected as error:
        return str(error)
    return ""


def accepted(document: Json) -> bool:
    try:
        DOCUMENTS[document["kind"]].model_validate(document)
    except ValueError:
        return False
    return True


def test_all_examples_are_taken(cluster: Cluster) -> None:
    files = [*(ROOT / "manifests" / "examples").glob("*.yaml")]
    files += [ROOT / "examples" / name for name in ("retention.yaml", "backup.yaml")]
    files += (ROOT / "platform" / "mlflow_platform" / "config" / "starter").glob("*.yaml")
    found = [d for path in files for d in yaml.safe_load_all(path.read_text("utf-8")) if d]
    assert len(found) > 15
    for document in found:
        assert refusal(cluster, document) == "", document


def single(text: str) -> Json | None:
    """The document of a row; None for a row about YAML, several documents or one of no kind of ours."""
    if "&" in text:  # anchors are YAML's business, and one row grows without end
        return None
    try:
        found = [json.loads(json.dumps(d)) for d in yaml.safe_load_all(text) if d]
    except (yaml.YAMLError, ValueError, TypeError):
        return None
    if len(found) != 1 or not isinstance(found[0], dict) or str(found[0].get("kind")) not in DOCUMENTS:
        return None
    metadata = found[0].get("metadata")
    if found[0].get("apiVersion") != API_VERSION or not isinstance(metadata, dict) or "name" not in metadata:
        return None
    return found[0] if not accepted(found[0]) else None


def test_bad_documents_are_refused_as_far_as_cel_can_tell(cluster: Cluster) -> None:
    bad = {name: one for name, (text, _) in ROWS.items() if (one := single(text)) is not None}
    assert len(bad) > 50
    taken = {name for name, document in bad.items() if refusal(cluster, document) == ""}
    assert taken == set(LET_PASS)


def document(kind: str, spec: Json, name: str = "a") -> Json:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


#: Letters of several scripts, a mark, a fraction, a tie, and all that rules are about.
TEXT = st.text("abzAZ019/:. _-*@é\u0301½\u203f\u0663", min_size=1, max_size=8)
NAME = st.one_of(
    TEXT, st.sampled_from(["..", "a/../b", "mlflow.x", "mlplatform.io/x", "latest", "v1", "V٣", " "])
)
SOURCE = st.one_of(
    NAME,
    st.sampled_from(
        [
            "runs:/r1/model",
            "runs:/r2/model",
            "RUNS://r1",
            "s3://b/k",
            "mlflow-artifacts:/x",
            "file:/x",
            "models:/m/1",
        ]
    ),
)
RUN = st.one_of(st.none(), st.sampled_from(["r1", "r2"]))
VERSION = st.builds(
    lambda key, source, run: {"key": key, "source": source, **({"runId": run} if run else {})},
    st.sampled_from(["one", "two"]),
    SOURCE,
    RUN,
)
ALIAS = st.one_of(
    st.builds(lambda k: {"key": k}, st.sampled_from(["one", "three"])),
    st.just({"version": 3}),
    st.just({}),
    st.just({"version": 3, "key": "one"}),
)
PERMISSION = st.builds(
    lambda t, r, p: {"resourceType": t, "resource": r, "permission": p},
    st.sampled_from(["experiment", "scorer", "workspace", "run"]),
    st.sampled_from(["*", "a", "a/b"]),
    st.sampled_from(["READ", "USE", "MANAGE"]),
)
DURATION = st.builds(
    lambda n, unit: f"{n}{unit}", st.sampled_from([0, 1, 23, 24, 1440, 86400]), st.sampled_from("smhdw")
)
RULES = st.fixed_dictionaries(
    {},
    optional={
        "runs": st.sampled_from([{}, {"abandonedAfter": "7d"}, {"abandonedAfter": "7d", "keepLast": 3}]),
        "loggedModels": st.sampled_from([{}, {"olderThan": "7d"}]),
        "orphans": st.one_of(st.just({}), st.builds(lambda d: {"olderThan": d}, DURATION)),
        "traces": st.builds(lambda d: {"olderThan": d}, DURATION),
    },
)
REFERENCE = {"name": "s", "key": "k"}
PLACE = st.fixed_dictionaries(
    {},
    optional={
        "endpoint": st.just("https://s3.example.com"),
        "accessKeySecretRef": st.just(REFERENCE),
        "secretKeySecretRef": st.just(REFERENCE),
    },
)
KEEP = st.sampled_from([{}, {"keep": {}}, {"keep": {"last": 3}}, {"keep": {"age": "3d"}}])
WINDOW = st.sampled_from(
    [{}, {"window": {"start": "22:00", "end": "22:00"}}, {"window": {"start": "22:00", "end": "05:00"}}]
)
DOCUMENT = st.one_of(
    st.builds(
        lambda place, keep: document("BackupSchedule", {"destination": {"uri": "s3://b/x", **place}, **keep}),
        PLACE,
        KEEP,
    ),
    st.builds(
        lambda place: document(
            "RetentionPolicy",
            {"rules": {"traces": {"olderThan": "1d"}}, "archive": {"destination": "s3://b/x", **place}},
        ),
        PLACE,
    ),
    st.builds(lambda rules, window: document("RetentionPolicy", {"rules": rules, **window}), RULES, WINDOW),
    st.builds(lambda n, t: document("Experiment", {"name": n, "tags": {t: "v"}}), NAME, NAME),
    st.builds(
        lambda u, v: document("Experiment", {"grants": [{"user": x, "permission": "READ"} for x in (u, v)]}),
        NAME,
        NAME,
    ),
    st.builds(lambda n: document("RegisteredModel", {"name": n}), NAME),
    st.builds(
        lambda versions, alias, target: document(
            "RegisteredModel", {"versions": versions, "aliases": {alias: target}}
        ),
        st.lists(VERSION, max_size=2),
        st.one_of(NAME, st.just("champion")),
        ALIAS,
    ),
    st.builds(lambda n: document("Prompt", {"name": n}), NAME),
    st.builds(lambda n: document("MLflowUser", {"name": n}), NAME),
    st.builds(
        lambda ps, members: document("MLflowRole", {"permissions": ps, "members": members}),
        st.lists(PERMISSION, max_size=2),
        st.lists(NAME, max_size=2),
    ),
    st.builds(
        lambda n: document("Webhook", {"name": n, "url": "https://x.org", "events": ["prompt.created"]}), NAME
    ),
    st.builds(lambda n: document("Workspace", {"name": n}), NAME),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DOCUMENT)
def test_the_api_server_and_the_models_agree(cluster: Cluster, one: Json) -> None:
    said = refusal(cluster, one)
    assert accepted(one) == (said == ""), said


def edited(control_plane: clusters.Kubernetes, kind: str, before: Json, after: Json) -> str:
    """What the API server says against an edit; empty where it takes it."""
    name = f"edit-{uuid.uuid4().hex[:8]}"
    control_plane.apply(document(kind, before, name))
    done = control_plane.try_kubectl("apply", "-f", "-", stdin=yaml.safe_dump(document(kind, after, name)))
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize(
    ("kind", "before", "after", "said"),
    [
        ("Experiment", {"name": "first"}, {"name": "second"}, "name cannot be changed"),
        ("Experiment", {}, {"name": "second"}, "name cannot be changed"),
        ("Experiment", {"name": "first"}, {}, "name cannot be changed"),
        ("Experiment", {}, {"server": "other"}, "server cannot be changed"),
        ("Experiment", {}, {"workspace": "other"}, "workspace cannot be changed"),
        ("Experiment", {}, {"tags": {"a": "b"}, "deletionPolicy": "Delete"}, ""),
        (
            "RegisteredModel",
            {"versions": [{"key": "k", "source": "s3://b/1"}]},
            {"versions": [{"key": "k", "source": "s3://b/2"}]},
            "source of a version cannot be changed",
        ),
        (
            "RegisteredModel",
            {"versions": [{"key": "k", "source": "s3://b/1"}]},
            {"versions": [{"key": "l", "source": "s3://b/2"}, {"key": "k", "source": "s3://b/1"}]},
            "",
        ),
        (
            "Prompt",
            {"versions": [{"key": "k", "template": "a"}]},
            {"versions": [{"key": "k", "messages": [{"role": "user", "content": "a"}]}]},
            "the content of a version cannot be changed",
        ),
    ],
)
def test_what_says_which_object_is_meant_stays(
    control_plane: clusters.Kubernetes, kind: str, before: Json, after: Json, said: str
) -> None:
    found = edited(control_plane, kind, before, after)
    assert said in found
    assert bool(found) == bool(said)


def test_kubectl_explains_and_lists(control_plane: clusters.Kubernetes) -> None:
    shown = control_plane.kubectl("explain", "experiment.spec.artifactLocation")
    assert "Root of the artifacts of its runs." in " ".join(shown.split())
    control_plane.apply(document("Experiment", {}, "listed"))
    head, *rows = control_plane.kubectl("get", "exp").splitlines()
    assert head.split() == ["NAME", "SERVER", "READY", "REASON", "AGE"]
    assert any(row.split()[:2] == ["listed", "default"] for row in rows)
    assert "experiment.mlplatform.io/listed" in control_plane.kubectl("get", "mlplatform", "-o", "name")
