"""The chart's objects in the eyes of kubeconform and kube-score, in every profile and mode.

kubeconform knows the schemas of the oldest and the newest Kubernetes that the chart is for, and of the
kinds that operators bring; so nothing is skipped. What kube-score finds is mended or listed, with the
reason, in kube-score.yaml.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_platform.chart import Manifest, find_chart
from tests.tools import go, schemas
from tests.unit.test_chart_mlflow_platform import CASES, rendered

#: The last release of the oldest minor that Chart.yaml takes, and the Kubernetes that tests/cluster builds.
KUBERNETES = ("1.30.14", "1.34.4")
#: kube-score's best grade (scorecard.GradeAllOK); below it are critical, warning and almost OK.
ALL_OK = 10
EXCEPTIONS = Path(__file__).parent / "kube-score.yaml"


def text(manifests: list[Manifest]) -> str:
    return "".join(m.text() for m in manifests)


def test_the_oldest_kubernetes_is_the_one_the_chart_names() -> None:
    assert find_chart().about["kubeVersion"] == f">={KUBERNETES[0].rsplit('.', 1)[0]}"


@pytest.fixture(scope="module", params=KUBERNETES)
def schema_location(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return schemas.write(tmp_path_factory.mktemp("schemas"), request.param)


def said(program: str, documents: str, *arguments: str) -> Any:
    """The JSON that a checker prints of documents on its standard input."""
    command = [str(go.program(program)), *arguments]
    done = subprocess.run(command, input=documents, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith(("{", "[")), done.stdout + done.stderr
    return json.loads(done.stdout)


def kubeconform(location: str, documents: str) -> dict[str, list[str]]:
    """What it says of each object: `Kind/name` -> its complaints."""
    answer = said(
        "kubeconform", documents, "-strict", "-verbose", "-output", "json", "-schema-location", location, "-"
    )
    found: dict[str, list[str]] = {}
    for resource in answer["resources"]:
        complaints = (
            [] if resource["status"] == "statusValid" else [f"{resource['status']}: {resource['msg']}"]
        )
        found[f"{resource['kind']}/{resource['name']}"] = complaints
    return found


@pytest.mark.parametrize("case", CASES)
def test_kubeconform_accepts_every_object(schema_location: str, case: str) -> None:
    manifests = rendered(case)
    assert kubeconform(schema_location, text(manifests)) == {f"{m.kind}/{m.name}": [] for m in manifests}


@pytest.mark.parametrize("kind", ["Deployment", "HTTPRoute", "ServiceMonitor", "Cluster", "NetworkPolicy"])
def test_kubeconform_sees_an_unknown_field_and_a_wrong_type(schema_location: str, kind: str) -> None:
    """The schemas are strict, those of operators too: a slip in a template does not pass unseen."""
    (found, *_) = (m.object for m in rendered("production") if m.kind == kind)
    name = f"{kind}/{found['metadata']['name']}"
    for part, wrong in (("spec", {"replicaz": 2}), ("metadata", {"labels": ["a"]})):
        complaints = kubeconform(schema_location, yaml.safe_dump({**found, part: {**found[part], **wrong}}))
        assert len(complaints[name]) == 1, complaints


@dataclass(frozen=True)
class Finding:
    """One complaint of kube-score about one object; a Job's name without the hash in it."""

    check: str
    object: str
    says: str

    def matches(self, exception: Mapping[str, Any]) -> bool:
        return (
            exception["check"] == self.check
            and any(fnmatch.fnmatch(self.object, pattern) for pattern in exception["objects"])
            and exception.get("says", self.says) == self.says
        )


@functools.cache
def kube_score(case: str) -> frozenset[Finding]:
    """What it finds in a case; the chart's objects belong together, so it sees them all at once."""
    return scored(text(rendered(case)))


def scored(documents: str) -> frozenset[Finding]:
    newest = f"v{KUBERNETES[-1].rsplit('.', 1)[0]}"
    answer = said(
        "kube-score", documents, "score", "--kubernetes-version", newest, "--output-format", "json", "-"
    )
    return frozenset(
        Finding(check["check"]["id"], object_name(judged), comment["summary"])
        for judged in answer
        for check in judged["checks"] or ()
        if not check["skipped"] and check["grade"] < ALL_OK
        for comment in check["comments"]
    )


def object_name(judged: Mapping[str, Any]) -> str:
    kind, name = judged["type_meta"]["kind"], judged["object_meta"]["name"]
    return f"{kind}/{re.sub('-[0-9a-f]{10}$', '', name) if kind == 'Job' else name}"


def exceptions() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(EXCEPTIONS.read_text("utf-8"))
    return found


@pytest.mark.parametrize("case", CASES)
def test_kube_score_finds_nothing_that_is_not_explained(case: str) -> None:
    unexplained = [f for f in kube_score(case) if not any(f.matches(e) for e in exceptions())]
    assert unexplained == []


def test_every_exception_is_explained_and_needed() -> None:
    findings = set().union(*(kube_score(case) for case in CASES))
    for exception in exceptions():
        assert len(exception["reason"]) > 20
        for pattern in exception["objects"]:
            assert any(f.matches({**exception, "objects": [pattern]}) for f in findings), (
                f"{EXCEPTIONS.name}: nothing needs {exception['check']} on {pattern} any more"
            )


def test_kube_score_sees_a_container_without_a_memory_limit() -> None:
    """Its answer is read as it is meant: a known mistake is found."""
    (server,) = (m.object for m in rendered("default") if m.kind == "Deployment")
    broken = json.loads(json.dumps(server))
    del broken["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert "Memory limit is not set" in {f.says for f in scored(yaml.safe_dump(broken))}
