"""Which files are read, what a configuration knows, and how fast it is."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_platform.config import Configuration, load
from mlflow_platform.config.project import check_name
from mlflow_platform.errors import BadDocuments, BadInput, Location

API = "apiVersion: mlplatform.io/v1alpha1\n"


def experiment(name: str, more: str = "") -> str:
    return f"{API}kind: Experiment\nmetadata: {{name: {name}}}\n{more}"


def names(found: Configuration) -> list[str]:
    return [one.document.metadata.name for one in found.documents]


def test_a_folder_is_read_recursively_sorted_and_without_what_is_hidden(tmp_path: Path) -> None:
    files = {
        "b.yaml": "b",
        "a.yml": "a",
        "c.json": "c",
        "sub/d.yaml": "d",
        "Z.yaml": "z",
        ".hidden.yaml": "h1",
        ".git/e.yaml": "h2",
        "readme.md": "no",
    }
    for file, name in files.items():
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(experiment(name))
    found = load([tmp_path])
    assert names(found) == ["z", "a", "b", "c", "d"]
    assert (found.whole, found.root, found.project, found.notes) == (True, tmp_path, None, ())


def test_documents_of_a_file_keep_their_order_and_empty_ones_are_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"# first\n---\n{experiment('b')}---\n---\n# none\n---\n{experiment('a')}...\n")
    found = load([file])
    assert names(found) == ["b", "a"]
    assert [one.where().line for one in found.documents] == [3, 10]
    assert not found.whole


def test_a_file_within_a_folder_that_is_given_too_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(experiment("a"))
    (tmp_path / "link.yaml").symlink_to(file)
    found = load([tmp_path, file])
    assert names(found) == ["a"]
    assert not found.whole


def test_links_to_folders_are_followed_and_never_in_circles(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "a.yaml").write_text(experiment("a"))
    (shared / "up").symlink_to(shared)
    config = tmp_path / "config"
    config.mkdir()
    (config / "linked").symlink_to(shared)
    assert names(load([config])) == ["a"]


def test_a_mounted_config_map_is_read_once(tmp_path: Path) -> None:
    """kubelet mounts one as links to a hidden folder (pkg/volume/util/atomic_writer.go)."""
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026" / "a.yaml").write_text(experiment("a"))
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert names(load([tmp_path])) == ["a"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    data = experiment("a", "spec: {nme: b}\n").encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(BadDocuments) as caught:
        load([Path("-")])
    assert caught.value.problems[0].where == Location("<stdin>", 4, 8)


def test_standard_input_is_never_whole_and_has_no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(experiment("a").encode())))
    found = load([Path("-")])
    assert (names(found), found.whole, found.root) == (["a"], False, None)


def test_json_as_programs_write_it(tmp_path: Path) -> None:
    document = {
        "apiVersion": "mlplatform.io/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "a"},
        "spec": {"name": "\U0001f9ea /\\", "description": "\\ud83d\\ude00 tab\t"},
    }
    file = tmp_path / "a.json"
    file.write_text(json.dumps(document, indent="\t"))
    spec = load([file]).documents[0].document.spec
    assert (spec.name, spec.description) == (document["spec"]["name"], document["spec"]["description"])


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    text = experiment("a", "spec:\n  tags:\n    team: x\n")
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    one = load([file]).documents[0]
    assert one.document.spec.tags == {"team": "x"}
    assert one.where("spec", "tags", "team") == Location(str(file), 6, 11)


def test_other_kinds_of_kubernetes_are_left_out_with_a_note(tmp_path: Path) -> None:
    file = tmp_path / "kustomization.yaml"
    file.write_text("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n")
    found = load([tmp_path])
    assert found.documents == ()
    assert found.notes[0] == (
        f"{file}:1:1: Kustomization of kustomize.config.k8s.io/v1beta1 is not for this program; left out"
    )


def test_what_kubectl_prints_can_be_given_back(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        f"{API}kind: Experiment\nmetadata:\n  name: a\n  uid: 3e5\n  generation: 2\n  finalizers: [x]\n"
        "  creationTimestamp: '2026-01-01T00:00:00Z'\nstatus: {conditions: [{type: Ready}]}\n"
    )
    assert names(load([tmp_path])) == ["a"]


def test_the_project_is_read_from_the_folder_or_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "mlplatform.toml").write_text('project = "search-team"\n')
    file = tmp_path / "a.yaml"
    file.write_text(experiment("a"))
    assert [load([p]).project for p in (tmp_path, file)] == ["search-team"] * 2
    assert [load([p]).root for p in (tmp_path, file)] == [tmp_path] * 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('porject = "a"\n', ":1:1: unknown setting 'porject'\n    did you mean project?"),
        (
            '\nproject = "A b"\n',
            ":2:1: 'A b' cannot be a project's name\n    use 1 to 63 lower-case letters, digits and dashes",
        ),
        ("project = 3\n", ":1:1: 3 cannot be a project's name\n    use 1 to 63 lower-case"),
        ("project = a\n", ':1:11: not valid TOML: Invalid value\n    write: project = "name"'),
    ],
)
def test_mistakes_in_the_project_file(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mlplatform.toml"
    file.write_text(text)
    with pytest.raises(BadDocuments) as caught:
        load([tmp_path])
    assert str(caught.value).startswith(f"{file}{said}")


@pytest.mark.parametrize("name", ["", "-a", "A", "a b", "a_b", "a" * 64, "a\n", "é"])
def test_names_that_no_project_can_have(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_name(name)
    assert caught.value.problem.what == f"{name!r} cannot be a project's name"
    assert caught.value.problem.remedy.startswith("use 1 to 63 lower-case letters")


@pytest.mark.parametrize("name", ["a", "0-", "search-team", "a" * 63])
def test_names_that_a_project_can_have(name: str) -> None:
    assert check_name(name) == name


def test_two_projects_at_once_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mlplatform.toml").write_text(f'project = "{name}"\n')
    one, two = tmp_path / "one", tmp_path / "two"
    with pytest.raises(BadDocuments) as caught:
        load([one, two])
    said = (
        f"the paths belong to different projects: 'one' ({one}), 'two' ({two})\n    give them one at a time"
    )
    assert str(caught.value) == said


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadDocuments) as caught:
        load([tmp_path / "nowhere"])
    assert (
        str(caught.value) == f"{tmp_path / 'nowhere'}: there is no such file or folder\n    correct the path"
    )


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.symlink_to(file)
    with pytest.raises(BadDocuments) as caught:
        load([tmp_path])
    assert str(caught.value) == f"{file}: cannot be read: Too many levels of symbolic links"


def test_a_folder_that_is_called_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "sub.yaml").mkdir()
    (tmp_path / "sub.yaml" / "a.yaml").write_text(experiment("a"))
    assert names(load([tmp_path])) == ["a"]


def test_eleven_thousand_documents_load_fast_and_small(tmp_path: Path) -> None:
    for i in range(11):
        (tmp_path / f"{i:02}.yaml").write_text(
            "---\n".join(
                experiment(
                    f"e-{i}-{j}",
                    f"spec:\n  name: team/experiment {i} {j}\n  description: One of many\n"
                    f"  tags:\n    team: search\n    stage: prod\n    number: n{j}\n",
                )
                for j in range(1000)
            )
        )
    program = (
        "import sys, time, yaml; from pathlib import Path; from mlflow_platform.config import load\n"
        "began = time.process_time(); found = load([Path(sys.argv[1])]); took = time.process_time() - began\n"
        "status = Path('/proc/self/status').read_text().split()\n"
        "texts = [path.read_text() for path in Path(sys.argv[1]).iterdir()]\n"
        "began = time.process_time()\n"
        "plain = sum(len(list(yaml.load_all(text, yaml.CSafeLoader))) for text in texts)\n"
        "bare = time.process_time() - began\n"
        "print(len(found.documents), plain, took / bare, status[status.index('VmHWM:') + 1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    count, plain, times, kibibytes = done.stdout.split()
    assert int(count) == int(plain) == 11_000
    assert float(times) < 3, "as often as this does loading take what PyYAML takes to read the same"
    assert int(kibibytes) < 150 << 10
