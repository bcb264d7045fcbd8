"""The chart's values: described, refused where they cannot be, and what the command makes of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_platform.chart import Release, reference
from mlflow_platform.cli.chart import render_command
from mlflow_platform.errors import BadInput
from tests.unit.test_chart_mlflow_platform import CASES, CHART, rendered


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["database.mode=external"], "database.external.host is empty"),
        (["database.mode=external", "database.external.host=h"], "database.existingSecret is empty"),
        (["store.mode=external"], "store.existingSecret is empty"),
        (
            ["store.mode=external", "store.external.credentials=identity", "store.existingSecret=x"],
            "store.existingSecret is set, but store.external.credentials is identity",
        ),
        (["ingress.enabled=true"], "ingress.host is empty"),
        (
            [r"labels.app\.kubernetes\.io/instance=mine"],
            "labels: app.kubernetes.io/instance is the chart's own label",
        ),
        (
            [r"database.bundled.podLabels.app\.kubernetes\.io/component=mine"],
            "database.bundled.podLabels: app.kubernetes.io/component is the chart's own label",
        ),
        (
            ["ingress.enabled=true", "ingress.host=h", "ingress.tls.clusterIssuer=i"],
            "ingress.tls.secretName is empty",
        ),
        (["gateway.enabled=true"], "gateway.host is empty"),
        (["gateway.enabled=true", "gateway.host=h"], "gateway.parentRefs is empty"),
        (
            ["server.autoscaling={enabled: true, minReplicas: 5, maxReplicas: 2}"],
            "server.autoscaling.minReplicas 5 is more than maxReplicas 2",
        ),
        (["server.jobs.enabled=true"], "server.jobs.redis.existingSecret is empty"),
        (
            ["server.jobs={enabled: true, redis: {existingSecret: r}, workers: 1}"],
            "database.maxConnections 100 is too small: 3 server pods .* x 25 connections [+] 55 need 130",
        ),
        (
            ["server.drainSeconds=60"],
            "server.terminationGraceSeconds 60 must be more than three times server.drainSeconds 60",
        ),
        (
            ["database.cloudnativePg.extraSpec={storage: {size: 1Gi}}"],
            "database.cloudnativePg.extraSpec.storage is the chart's own",
        ),
        (
            ["server.replicas=5"],
            "database.maxConnections 100 is too small: 6 server pods .* x 19 connections [+] 5 need 119",
        ),
    ],
)
def test_impossible_combinations_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=f"templates/checks.yaml.j2:[0-9]+:0: {message}"):
        rendered("default", *settings)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "server.extraEnv=[{name: PGHOST, value: h}]",
            "templates/server.yaml.j2: Deployment mlflow-server: the variable PGHOST is given twice",
        ),
        (
            "jobs.extraEnv=[{name: A, value: a}, {name: B}, {name: A, value: b}]",
            "templates/migrate.yaml.j2: Job mlflow-migrate-.*: the variable A is given twice",
        ),
    ],
)
def test_a_variable_that_is_there_already_is_refused(setting: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        rendered("default", setting)


@pytest.mark.parametrize(
    ("external", "file"),
    [
        # Not `system`: that is an empty place for the OpenSSL that psycopg brings.
        ("{host: h}", "/etc/ssl/certs/ca-certificates.crt"),
        ("{host: h, sslMode: verify-ca}", "/etc/ssl/certs/ca-certificates.crt"),
        ("{host: h, caSecret: ca}", "/etc/mlplatform/database-ca/ca.crt"),
        ("{host: h, sslMode: require}", None),
    ],
)
def test_an_external_databases_certificate_is_checked_with_a_file(external: str, file: str | None) -> None:
    found = rendered(
        *("default", "database.mode=external", "database.existingSecret=db"), f"database.external={external}"
    )
    pods = [m.object["spec"]["template"]["spec"] for m in found if m.name.startswith("mlflow-migrate-")]
    pods += [m.object["spec"]["template"]["spec"] for m in found if m.kind == "Deployment"]
    containers = [c for pod in pods for c in [*pod.get("initContainers", []), *pod["containers"]]]
    assert len(containers) == 3
    for container in containers:
        variables = {e["name"]: e.get("value") for e in container["env"]}
        assert variables.get("PGSSLROOTCERT") == file


def test_the_connection_budget_counts_workspaces() -> None:
    assert rendered("default", "server.replicas=4")
    with pytest.raises(BadInput, match=r"5 server pods .* x 25 connections"):
        rendered("default", "server.replicas=4", "workspaces.enabled=true")


def described(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, child in schema.get("properties", {}).items():
        yield f"{path}{name}", child
        yield from described(child, f"{path}{name}.")


def defaults(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{path}{name}"
        if isinstance(value, dict):
            yield from defaults(value, f"{path}{name}.")


def test_every_value_is_described_and_has_a_default() -> None:
    found = dict(described(CHART.schema))
    for path, schema in found.items():
        assert len(schema.get("description", "")) >= 8, f"{path} has no description"
        assert schema["description"].endswith("."), path
    assert {
        path for path in set(found) - set(defaults(CHART.values().data)) if ".resources." not in path
    } == set()


def test_the_reference_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs/reference/values.md"
    assert page.read_text() == reference.page(CHART), (
        "docs/reference/values.md is old: python -m mlflow_platform.chart.reference rewrites it"
    )


def run(*arguments: str) -> Any:
    return CliRunner().invoke(render_command, list(arguments))


def test_command_prints_what_the_library_makes() -> None:
    result = run("--profile", "local")
    assert result.exit_code == 0
    assert result.output == "".join(m.text() for m in rendered("local"))


def test_command_shows_one_template_and_names_the_others() -> None:
    for name in ("service", "service.yaml", "templates/service.yaml.j2"):
        assert run("--show-only", name).output.count("kind: ") == 1
    refused = run("--show-only", "nothing")
    assert isinstance(refused.exception, BadInput)
    assert "no object comes from nothing.yaml.j2" in str(refused.exception)


def test_command_writes_a_file_an_object(tmp_path: Path) -> None:
    result = run("--output-dir", str(tmp_path / "out"), "-n", "apps", "--set", "image.tag=x")
    files = sorted((tmp_path / "out").iterdir())
    assert result.output == f"{len(files)} objects written to {tmp_path / 'out'}\n"
    expected = CHART.render(CHART.values(settings=["image.tag=x"]), Release(namespace="apps"))
    assert [f.read_text() for f in files] == [m.text() for m in expected]


def test_a_second_rendering_takes_the_place_of_the_first(tmp_path: Path) -> None:
    mine = {"kustomization.yaml": "resources: []\n", "07-mine.yaml": "kind: Mine\n"}
    for name, text in mine.items():
        (tmp_path / name).write_text(text)
    for profile in ("production", "local"):
        assert run("--output-dir", str(tmp_path), "--profile", profile).exit_code == 0
    found = {f.name: f.read_text() for f in sorted(tmp_path.iterdir())}
    assert {name: found.pop(name) for name in mine} == mine
    assert list(found.values()) == [m.text() for m in rendered("local")]


def test_the_schema_is_json_with_nothing_twice() -> None:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({k for k, _ in pairs}) == len(pairs)
        return dict(pairs)

    json.loads((CHART.folder / "values.schema.json").read_text(), object_pairs_hook=once)


def takers(schema: Mapping[str, Any], text: str, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of the values that may be this text, such as the name of a Secret."""
    for name, child in schema.get("properties", {}).items():
        if (
            child.get("type") == "string"
            and "enum" not in child
            and re.search(child.get("pattern", ""), text)
        ):
            yield (*path, name)
        yield from takers(child, text, (*path, name))


def scalars(found: Any) -> Iterator[Any]:
    if isinstance(found, Mapping | list):
        for item in found.values() if isinstance(found, Mapping) else found:
            yield from scalars(item)
    else:
        yield found


@pytest.mark.parametrize("case", CASES)
def test_a_text_that_looks_like_something_else_stays_a_text(case: str) -> None:
    """A Secret may be named 123, a release true."""
    profile, settings = CASES[case]

    def other_than_texts(text: str, like: str, release: Release) -> list[Any]:
        values = CHART.values(profile=profile, settings=settings)
        for *path, name in takers(CHART.schema, like):
            place = values.data
            for key in path:
                place = place[key]
            if place[name]:
                place[name] = text
        found = [scalar for m in CHART.render(values, release) for scalar in scalars(m.object)]
        return [scalar for scalar in found if not isinstance(scalar, str)]

    assert ("auth", "existingSecret") in set(takers(CHART.schema, "123"))
    for text, name in (("123", "on"), ("null", "true"), ("a: b # c", "off"), ("{*x", "yes")):
        usual = other_than_texts("word", text, Release("word", "word"))
        assert other_than_texts(text, text, Release(name, "123")) == usual
