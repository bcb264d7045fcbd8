"""`validate`, `explain`, `schema`, `init` as a user runs them; the examples and the reference pages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from mlflow_platform.cli.documents import explain_command, init_command, schema_command, validate_command
from mlflow_platform.cli.reference import PAGES
from mlflow_platform.cli.root import run
from mlflow_platform.config import load
from mlflow_platform.errors import EXIT_ERROR, EXIT_OK, EXIT_USAGE, BadInput
from mlflow_platform.model import DOCUMENTS
from mlflow_platform.model.schema import at, kind_schema

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "manifests" / "examples"
BAD = """\
apiVersion: mlplatform.io/v1alpha1
kind: Experiment
metadata: {name: a}
spec: {nme: x, tags: {a: 3}}
"""


def invoke(command: object, *arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(command, arguments, input=text, standalone_mode=False)  # type: ignore[arg-type]


def test_the_examples_are_valid_and_use_every_kind_that_needs_no_second_server() -> None:
    done = invoke(validate_command, str(EXAMPLES))
    assert (done.return_value, done.stderr) == (EXIT_OK, "")
    assert done.stdout.startswith("23 documents in 6 files (6 Experiment, 2 ExperimentSet, ")
    found = load([EXAMPLES])
    assert (found.project, found.whole) == ("examples", True)
    assert {one.document.kind for one in found.documents} == DOCUMENTS.keys() - {
        "TrackingServer",
        "Workspace",
        "RetentionPolicy",
        "BackupSchedule",
    }


def test_the_examples_of_a_policy_and_a_schedule_are_valid() -> None:
    done = invoke(validate_command, str(EXAMPLES.parents[1] / "examples"))
    assert (done.return_value, done.stderr) == (EXIT_OK, "")
    assert "1 RetentionPolicy" in done.stdout
    assert "1 BackupSchedule" in done.stdout


def test_the_examples_declare_what_the_workloads_need() -> None:
    documents = [one.document for one in load([EXAMPLES]).documents]
    sets = {d.metadata.name: list(d.spec.names()) for d in documents if d.kind == "ExperimentSet"}
    assert len(sets["analytics-agents"]) == 3 * 5
    names = {d.spec.name for d in documents if d.kind == "Experiment"} | {n for s in sets.values() for n in s}
    roles = [d.spec for d in documents if d.kind == "MLflowRole"]
    granted = {
        p.resource
        for r in roles
        for p in r.permissions
        if p.resourceType == "experiment" and p.resource != "*"
    }
    assert granted == names, "each experiment is edited by exactly one team"
    assert sum(len(r.permissions) for r in roles) - len(granted) == 2 * 3 + 5 + 3
    assert all(len(d.spec.versions) == 2 and d.spec.aliases for d in documents if d.kind == "Prompt")
    users = {d.metadata.name for d in documents if d.kind == "MLflowUser"}
    assert users > {m for r in roles for m in r.members}


def test_validate_prints_every_mistake_and_fails(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(BAD)
    done = invoke(validate_command, str(tmp_path))
    assert done.return_value == EXIT_ERROR
    assert done.stdout == (
        f"{file}:4:8: unknown field spec.nme\n    did you mean name?\n"
        f"{file}:4:26: spec.tags.a must be text, but 3 without quotes is a number in YAML\n"
        '    write "3"\n'
    )
    assert done.stderr == "2 mistakes\n"


def test_validate_as_json() -> None:
    done = invoke(validate_command, "--json", "-", text=BAD)
    assert done.return_value == EXIT_ERROR
    problems = json.loads(done.stdout)["problems"]
    assert problems[0] == {
        "file": "<stdin>",
        "line": 4,
        "column": 8,
        "what": "unknown field spec.nme",
        "remedy": "did you mean name?",
    }
    valid = json.loads(invoke(validate_command, "--json", str(EXAMPLES)).stdout)
    assert (valid["valid"], valid["project"], valid["documents"]["Prompt"]) == (True, "examples", 3)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_path_that_is_not_there_is_wrong_usage(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["validate", *options, str(tmp_path / "nowhere")]) == EXIT_USAGE
    assert f"'{tmp_path}/nowhere' does not exist" in "".join(capsys.readouterr().err.split("\n"))


def test_a_mistake_of_a_whole_file_has_no_line(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    with file.open("wb") as out:
        out.truncate(11 << 20)
    done = invoke(validate_command, "--json", str(file))
    assert json.loads(done.stdout)["problems"] == [
        {
            "file": str(file),
            "line": None,
            "column": None,
            "what": "the file is larger than 10 MiB",
            "remedy": "split it into several files",
        }
    ]


@pytest.mark.parametrize(
    ("spec", "secret"),
    [
        ("trackingUri: 'http://admin:hunter2@host'", "hunter2"),
        ("trackingUri: 'ftp://admin:hunter2@host'", "hunter2"),
        ("trackingUri: 'admin:hunter2@host:5000'", "hunter2"),
        ("trackingUri: 'http://hunter2@host/a@b'", "hunter2"),
        ("trackingUri: 'http://admin:hun/ter2@[::1]:80'", "ter2"),
        ("{trackingUri: 'http://host', ledgerKeySecretRef: hunter2}", "hunter2"),
    ],
)
def test_a_secret_where_none_may_be_is_never_repeated(spec: str, secret: str) -> None:
    head = "apiVersion: mlplatform.io/v1alpha1\nkind: TrackingServer\nmetadata: {name: a}\n"
    text = f"{head}spec: {spec}\n" if spec.startswith("{") else f"{head}spec:\n  {spec}\n"
    for options in ([], ["--json"]):
        done = invoke(validate_command, *options, "-", text=text)
        assert (done.return_value, secret in done.output) == (EXIT_ERROR, False)


@pytest.mark.parametrize(
    "uri", ["http://a", "https://a.b:5000/x@y?z=@", "http://[::1]:80/", "http://a?b", "http://10.0.0.1:5000"]
)
def test_addresses_of_servers(uri: str) -> None:
    head = "apiVersion: mlplatform.io/v1alpha1\nkind: TrackingServer\nmetadata: {name: a}\n"
    done = invoke(validate_command, "-", text=f"{head}spec: {{trackingUri: '{uri}'}}\n")
    assert (done.return_value, done.output.endswith("valid\n")) == (EXIT_OK, True)


def test_validate_says_what_it_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Secret\n")
    done = invoke(validate_command, str(tmp_path))
    assert done.return_value == EXIT_OK
    assert "Secret of v1 is not for this program; left out" in done.stderr
    assert done.stdout == "0 documents: valid\n"


def test_explain_lists_kinds_and_fields() -> None:
    assert [line.split()[0] for line in invoke(explain_command).stdout.splitlines()] == list(DOCUMENTS)
    text = invoke(explain_command, "rm.spec.versions").stdout
    assert "FIELD:    spec.versions <list of mappings, at most 200>" in text
    assert "  key <text, at most 63 characters> required\n      Stable name of the version" in text
    below = invoke(explain_command, "--recursive", "Prompt.spec").stdout
    assert "      content <text, at most 100,000 characters> required" in below
    shown = json.loads(invoke(explain_command, "--json", "Experiment.spec.name").stdout)
    assert shown["maxLength"] == 256


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("Experimnt", "there is no kind 'Experimnt'\n    did you mean Experiment?"),
        ("Experiment.spec.tgas", "Experiment.spec has no field 'tgas'\n    did you mean tags?"),
        ("Experiment.spec.tags.x", "Experiment.spec.tags has no field 'x'\n    none is known here"),
    ],
)
def test_explain_names_the_nearest(field: str, said: str) -> None:
    done = invoke(explain_command, field)
    assert isinstance(done.exception, BadInput)
    assert str(done.exception) == said


def test_schema_of_a_kind_and_of_any() -> None:
    one = json.loads(invoke(schema_command, "experiment").stdout)
    assert (one["title"], one["properties"]["spec"]["additionalProperties"]) == ("Experiment", False)
    every = json.loads(invoke(schema_command).stdout)
    assert every["properties"]["kind"]["enum"] == list(DOCUMENTS)
    assert [rule["then"]["properties"]["kind"]["const"] for rule in every["allOf"]] == list(DOCUMENTS)
    assert "$ref" not in json.dumps(every)


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, below in items:
        yield from _paths(below, (*path, step))


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
def test_schema_knows_every_field_of_the_examples(file: Path) -> None:
    for document in yaml.safe_load_all(file.read_text()):
        schema = kind_schema(document["kind"])
        assert [path for path in _paths(document) if at(schema, path) is None] == []
        assert at(schema, ("spec", "nme")) is None


def test_init_writes_what_validates_and_overwrites_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "Search Team"
    assert invoke(init_command, str(folder)).exit_code == 0
    found = load([folder])
    assert (found.project, found.whole, len(found.documents)) == ("search-team", True, 4)
    (folder / "models.yaml").write_text("mine")
    before = {path: path.read_text() for path in folder.iterdir()}
    done = invoke(init_command, str(folder))
    assert isinstance(done.exception, BadInput)
    assert "models.yaml" in str(done.exception)
    assert {path: path.read_text() for path in folder.iterdir()} == before


def test_the_starter_that_is_commented_out_is_valid_too(tmp_path: Path) -> None:
    invoke(init_command, str(tmp_path), "--project", "search")
    file = tmp_path / "access.yaml"
    lines = [line.removeprefix("# ") for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines[lines.index("apiVersion: mlplatform.io/v1alpha1") :]))
    assert {one.document.kind for one in load([file]).documents} == {"MLflowUser", "MLflowRole"}


def test_init_into_a_folder_that_exists_beside_one_of_its_files_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "prompts.yaml").write_text("mine")
    assert isinstance(invoke(init_command, str(tmp_path), "--project", "a").exception, BadInput)
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.yaml"]


def test_init_refuses_a_name_that_no_project_can_have(tmp_path: Path) -> None:
    done = invoke(init_command, str(tmp_path / "new"), "--project", "A/b")
    assert str(done.exception).startswith("'A/b' cannot be a project's name")
    assert not (tmp_path / "new").exists()


def test_mistakes_give_exit_code_1_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(BAD)
    assert run(["validate", str(tmp_path)]) == EXIT_ERROR
    assert run(["explain", "Nothing.like.it"]) == EXIT_ERROR
    assert "Traceback" not in "".join(capsys.readouterr())


def test_no_command_about_documents_imports_a_server_s_client(tmp_path: Path) -> None:
    program = (
        "import sys; from mlflow_platform.cli.root import run; code = run(sys.argv[1:])\n"
        "found = {'mlflow', 'boto3', 'psycopg', 'kubernetes', 'sqlalchemy'} & sys.modules.keys()\n"
        "sys.exit(1 if code or found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "validate", str(EXAMPLES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_reference_pages_are_current(tmp_path: Path) -> None:
    """In a process of its own, as `make docs`: click keeps what a command was first asked for its help."""
    subprocess.run([sys.executable, "-m", "mlflow_platform.cli.reference", str(tmp_path)], check=True)
    assert {path.name for path in tmp_path.iterdir()} == set(PAGES)
    for made in tmp_path.iterdir():
        page = ROOT / "docs" / "reference" / made.name
        assert page.read_text("utf-8") == made.read_text("utf-8"), "run `make docs`"
