"""The renderer: layers of values, the schema's messages, templates' errors with their place, order."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.chart import Chart, Release, Values
from mlflow_platform.chart.templates import Templates, Tree, to_yaml
from mlflow_platform.chart.values import merged
from mlflow_platform.errors import BadDocuments, BadInput

ABOUT = 'name: t\nversion: 0.1.0\nappVersion: "1.0"\nkubeVersion: ">=1.30"\n'
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "replicas": {"type": "integer", "minimum": 1, "maximum": 9},
        "mode": {"type": "string", "enum": ["bundled", "external"]},
        "name": {"type": "string", "pattern": "^[a-z]+$", "examples": ["abc"]},
        "nested": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"on": {"type": "boolean"}},
        },
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "hosts": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
    },
}
CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n"


@pytest.fixture
def chart(tmp_path: Path) -> Chart:
    """A small chart; tests add templates to it."""
    for folder in ("templates", "profiles"):
        (tmp_path / folder).mkdir()
    (tmp_path / "Chart.yaml").write_text(ABOUT)
    (tmp_path / "values.yaml").write_text(
        "replicas: 1\nmode: bundled\nname: abc\nnested: {on: false}\nlabels: {}\nhosts: []\n"
    )
    (tmp_path / "values.schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "profiles" / "big.yaml").write_text("replicas: 5\n")
    return Chart(tmp_path)


def render(chart: Chart, text: str, **data: Any) -> str:
    (chart.folder / "templates" / "t.yaml.j2").write_text(text)
    return Templates(chart.folder, {"values": data}).render("t.yaml.j2")


def test_later_layers_win(chart: Chart, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("replicas: 6\nnested: {on: true}\nhosts: [a, b]\n")
    assert chart.values().data["replicas"] == 1
    assert chart.values(profile="big").data["replicas"] == 5
    values = chart.values(profile="big", files=[file], settings=["replicas=7", "hosts=[c]"])
    assert values.data == {
        "replicas": 7, "mode": "bundled", "name": "abc", "nested": {"on": True}, "labels": {}, "hosts": ["c"],
    }  # fmt: skip
    assert str(values.place(["nested", "on"])) == f"{file}:2:10"
    assert str(values.place(["replicas"])) == "--set replicas"


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.lists(inner, max_size=3),
        max_leaves=10,
    )


plain = st.booleans() | st.integers() | st.text()
json_values = trees(st.none() | plain)
#: Without what takes a map away, null or another value in its place: that is not there then to merge with.
#: So, as in a schema, a name tells whether a map or a value is under it.
maps = st.recursive(
    st.dictionaries(st.sampled_from(["a", "b"]), plain | st.lists(plain, max_size=2)),
    lambda inner: st.dictionaries(st.sampled_from(["M", "N"]), inner, max_size=2),
    max_leaves=8,
)


@given(maps, maps, maps)
def test_merging_is_associative_and_changes_nothing_it_is_given(a: Any, b: Any, c: Any) -> None:
    before = json.dumps([a, b, c])
    assert merged(merged(a, b), c) == merged(a, merged(b, c))
    assert merged(a, a) == a
    assert json.dumps([a, b, c]) == before


@given(json_values)
def test_yaml_text_reads_back(value: Any) -> None:
    assert yaml.safe_load(to_yaml(value)) == value
    if isinstance(value, dict):
        assert yaml.safe_load(to_yaml(Tree(value, "v"))) == value


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("replicaz: 2", "{f}:1:1: replicaz: no such value\n    did you mean replicas?"),
        ("nested: {off: true}", "{f}:1:10: nested.off: no such value\n    known here: on"),
        ("replicas: many", "{f}:1:1: replicas: must be integer, found 'many'\n    write it without quotes"),
        ("replicas: true", "{f}:1:1: replicas: must be integer, found true"),
        ("replicas: 10", "{f}:1:1: replicas: must be at most 9, found 10"),
        ("replicas: 0", "{f}:1:1: replicas: must be at least 1, found 0"),
        ("replicas: null", "{f}:1:1: replicas: must be integer, found null"),
        (
            "mode: bundle",
            "{f}:1:1: mode: 'bundle' is not one of bundled, external\n    did you mean bundled?",
        ),
        ("name: ABC", "{f}:1:1: name: 'ABC' does not match ^[a-z]+$\n    for example abc"),
        ("labels: {a: 1}", '{f}:1:10: labels.a: must be string, found 1\n    quote it: "1"'),
        ("hosts: [a, {}]", "{f}:1:12: hosts[1]: must be string, found a map"),
        ("hosts: [a, b, c]", "{f}:1:1: hosts: must be at most 2 items, found 3"),
        ("nested: 1", "{f}:1:1: nested: must be object, found 1"),
        ("name: a\nname: b", "{f}:2:1: key 'name' is written twice"),
        ("- a", "{f}:1:1: values must be a map of names to values"),
    ],
)
def test_bad_values_are_named_with_their_place(chart: Chart, tmp_path: Path, file: str, message: str) -> None:
    path = tmp_path / "v.yaml"
    path.write_text(file)
    with pytest.raises(BadDocuments) as caught:
        chart.values(files=[path])
    assert str(caught.value) == message.replace("{f}", str(path))


def test_all_mistakes_are_reported_at_once(chart: Chart, tmp_path: Path) -> None:
    path = tmp_path / "v.yaml"
    path.write_text("replicas: 0\nmode: x\nwhat: 1\n")
    with pytest.raises(BadDocuments) as caught:
        chart.values(files=[path], settings=["name=A"])
    assert len(caught.value.problems) == 4


def test_unreadable_files_and_settings(chart: Chart, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read values file .*absent.yaml: No such file"):
        chart.values(files=[tmp_path / "absent.yaml"])
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="not UTF-8"):
        chart.values(files=[tmp_path / "binary.yaml"])
    (tmp_path / "broken.yaml").write_text("a: [1\nb: 2")
    with pytest.raises(BadInput, match=r"broken.yaml:2:2: not YAML"):
        chart.values(files=[tmp_path / "broken.yaml"])
    for setting in ("replicas", "=1", "a..b=1"):
        with pytest.raises(BadInput, match="expected path=value"):
            chart.values(settings=[setting])
    with pytest.raises(BadInput, match="--set name: the value is not YAML"):
        chart.values(settings=["name=[a"])
    with pytest.raises(BadDocuments, match="--set labels:1:8: key 'a' is written twice"):
        chart.values(settings=["labels={a: x, a: z}"])
    (tmp_path / "itself.yaml").write_text("labels: &a {a: *a}")
    for settings, files in ((["labels=&a {a: *a}"], []), ([], [tmp_path / "itself.yaml"])):
        with pytest.raises(BadInput, match=r"(--set labels|itself.yaml): nested too deeply, or an alias"):
            chart.values(settings=settings, files=files)
    with pytest.raises(BadInput, match=r"no profile 'bug'\n    did you mean big?"):
        chart.values(profile="bug")


def test_what_is_within_a_setting_is_its_own(chart: Chart, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("labels: {a: b}\nhosts: [a]\n")
    settings = ["labels={a: 1, 2: c}", "hosts=[x, {}]"]
    with pytest.raises(BadDocuments) as caught:
        chart.values(files=[file], settings=settings)
    assert [str(p).splitlines()[0] for p in caught.value.problems] == [
        "--set hosts: hosts[1]: must be string, found a map",
        "--set labels: labels.a: must be string, found 1",
    ]
    assert chart.values(settings=["labels={2: c}"]).data["labels"] == {"2": "c"}


def test_a_setting_reaches_a_key_with_dots(chart: Chart) -> None:
    assert chart.values(settings=[r"labels.example\.com/team=a"]).data["labels"] == {"example.com/team": "a"}


def test_anchors_and_merge_keys_are_understood(chart: Chart, tmp_path: Path) -> None:
    path = tmp_path / "v.yaml"
    path.write_text("labels: &l {a: x, b: y}\nnested: {on: true}\n")
    assert chart.values(files=[path]).data["labels"] == {"a": "x", "b": "y"}
    values = Values()
    (tmp_path / "m.yaml").write_text("one: &o {a: 1, b: 2}\ntwo: {<<: *o, b: 3}\n")
    values.add_file(tmp_path / "m.yaml")
    assert values.data["two"] == {"a": 1, "b": 3}


def test_filters_are_helms(chart: Chart) -> None:
    assert render(chart, "a:{{ values.m | toYaml | nindent(2) }}", m={"k": [1]}) == "a:\n  k:\n  - 1"
    assert render(chart, "{{ 'a\n\nb' | indent(2) }}") == "  a\n\n  b"
    assert render(chart, "{{ values.s | sha256sum }}", s="x") == hashlib.sha256(b"x").hexdigest()
    assert render(chart, "{{ values.s | b64enc }}", s="é") == base64.b64encode("é".encode()).decode()
    assert render(chart, "{{ values.n | quote }} {{ values.b | quote }}", n=5, b=True) == '"5" "true"'
    assert render(chart, "{{ values.x | required('why') }}", x="v") == "v"
    assert render(chart, "{{ values.items }}{{ values['keys'] }}", items=1, keys=2) == "12"


def test_partials_files_and_includes_are_reachable(chart: Chart) -> None:
    (chart.folder / "templates" / "_partials.yaml.j2").write_text(
        "{% macro name() %}{{ values.n }}-x{% endmacro %}"
    )
    (chart.folder / "templates" / "other.yaml.j2").write_text("text of {{ values.n }}")
    (chart.folder / "files").mkdir()
    (chart.folder / "files" / "f").write_text("F")
    text = render(chart, "{{ partials.name() }} {{ include('other.yaml.j2') }} {{ file('files/f') }}", n="a")
    assert text == "a-x text of a F"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a\n{{ values.a.b }}", "templates/t.yaml.j2:2:0: values.a.b is not defined"),
        ("{{ values.c[1].d }}", "templates/t.yaml.j2:1:0: values.c[1].d is not defined"),
        ("{{ nothing }}", "templates/t.yaml.j2:1:0: 'nothing' is undefined"),
        ("\n\n{{ values.z | required('set z') }}", "templates/t.yaml.j2:3:0: set z"),
        ("{{ fail('no') }}", "templates/t.yaml.j2:1:0: no"),
        ("{{ values.z }}", "templates/t.yaml.j2:1:0: null would be printed here"),
        ("{{ values.a }}", "templates/t.yaml.j2:1:0: a map or list would be printed here"),
        ("{% if %}", "templates/t.yaml.j2:1:0: Expected an expression"),
        ("{{ 1 + 'a' }}", "templates/t.yaml.j2:1:0: TypeError"),
        ("{{ file('files/none') }}", "templates/t.yaml.j2:1:0: the chart has no file files/none"),
        ("{{ include('none.yaml.j2') }}", "no template none.yaml.j2"),
    ],
)
def test_a_templates_error_names_its_line(chart: Chart, template: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        render(chart, template, a={}, c=[{}, {}], z=None)
    assert str(caught.value).startswith(message)


def test_the_line_of_a_partials_error_is_the_partials(chart: Chart) -> None:
    (chart.folder / "templates" / "_partials.yaml.j2").write_text(
        "{% macro name() %}\n{{ values.n }}{% endmacro %}"
    )
    with pytest.raises(BadInput, match=r"^templates/_partials.yaml.j2:2:0: values.n is not defined"):
        render(chart, "{{ partials.name() }}")


def test_objects_come_in_the_order_to_apply(chart: Chart) -> None:
    kinds = ["Job", "Service", "Thing", "ServiceAccount", "Namespace"]
    text = "---\n".join(f"apiVersion: v1\nkind: {k}\nmetadata: {{name: {n}}}\n" for k in kinds for n in "ba")
    (chart.folder / "templates" / "a.yaml.j2").write_text(text)
    found = [(m.kind, m.name) for m in chart.render(chart.values())]
    assert found == [
        (k, n) for k in ["Namespace", "ServiceAccount", "Service", "Job", "Thing"] for n in "ab"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: ConfigMap\n", "templates/a.yaml.j2: a document without apiVersion, kind or metadata.name"),
        ("- a\n", "templates/a.yaml.j2: a document without"),
        ("a: b: c\n", "templates/a.yaml.j2: its text is not YAML: .*'a: b: c'"),
        (
            CONFIG_MAP.format(name="x") + "---\n" + CONFIG_MAP.format(name="x"),
            "templates/a.yaml.j2: ConfigMap x is made twice",
        ),
    ],
)
def test_what_is_no_object_is_refused(chart: Chart, text: str, message: str) -> None:
    (chart.folder / "templates" / "a.yaml.j2").write_text(text)
    with pytest.raises(BadInput, match=message):
        chart.render(chart.values())


def test_versions_and_names_are_checked(chart: Chart) -> None:
    with pytest.raises(BadInput, match=r"Kubernetes 1.29 is too old\n    the chart needs >=1.30"):
        chart.render(chart.values(), kube_version="1.29")
    with pytest.raises(BadInput, match="'new' is not a Kubernetes version"):
        chart.render(chart.values(), kube_version="new")
    assert chart.render(chart.values(), kube_version="v1.31.2") == []
    for name in ("", "Upper", "1st", "a" * 41, "a-"):
        with pytest.raises(BadInput, match="is not usable"):
            Release(name=name)
    for name in ("", "Upper", "a" * 64, "-a"):
        with pytest.raises(BadInput, match=r"namespace .* is not usable"):
            Release(namespace=name)
    assert Release("a" * 40, "1" * 63)
    with pytest.raises(BadInput, match="is not a chart"):
        Chart(chart.folder / "templates")


def test_a_rule_the_checker_does_not_know_is_a_mistake_in_the_schema(chart: Chart) -> None:
    (chart.folder / "values.schema.json").write_text(json.dumps({**SCHEMA, "oneOf": []}))
    with pytest.raises(ValueError, match="oneOf"):
        chart.values()
