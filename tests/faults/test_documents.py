"""Bad documents: each gets exact messages with place and remedy, at once and quickly; never a traceback.

The table of `mistakes.md` is the expectation; what is too large for a table is made here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlflow_platform.config import load
from mlflow_platform.errors import BadDocuments
from tests import golden_files

TABLE = "documents/mistakes.md"
API = "apiVersion: mlplatform.io/v1alpha1\n"
EXPERIMENT = f"{API}kind: Experiment\nmetadata: {{name: a}}\n"
_ROW = re.compile(r"## ([^\n]+)\n\n```yaml\n(.*?)```\n\n```text\n(.*?)```\n", re.DOTALL)
ROWS = {
    name: (text, said) for name, text, said in _ROW.findall((golden_files.FOLDER / TABLE).read_text("utf-8"))
}
#: What is too large for the table: the text, and everything that is said.
LARGE = {
    "a control character": (
        "a: b\nc: \x07\n",
        (
            "2:4: the character U+0007 is not allowed in YAML | "
            "remove it, or write it as an escape in double quotes"
        ),
    ),
    "nested too deep": (
        "[" * 100_000,
        "1:50: malformed YAML: nested more than 50 levels deep | no field is deeper than 50 levels",
    ),
    "a number of 5,000 digits": (
        f"{EXPERIMENT}spec: {{tags: {{a: {'9' * 5000}}}}}\n",
        '4:18: spec.tags.a must be text, but 9... without quotes is a number in YAML | write "9..."'.replace(
            "9...", "9" * 77 + "..."
        ),
    ),
    "messages that are too long together": (
        f"{API}kind: Prompt\nmetadata: {{name: a}}\nspec:\n  versions:\n    - key: v\n      messages:\n"
        + f"        - {{role: user, content: {'a' * 60_000}}}\n" * 2,
        "7:7: the messages have 120,066 characters as JSON; MLflow takes 100,000 | shorten them",
    ),
}


def a_set(axes: str, values: int) -> str:
    """A set with `values` values on each of the axes, whose names are one letter."""
    of_one = ", ".join(f"v{i}" for i in range(values))
    matrix = "".join(f"    {axis}: [{of_one}]\n" for axis in axes)
    name = "/".join(f"{{{{ {axis} }}}}" for axis in axes)
    return (
        f"{API}kind: ExperimentSet\nmetadata: {{name: a}}\nspec:\n  matrix:\n{matrix}"
        f'  template: {{name: "{name}"}}\n'
    )


def messages(path: Path) -> list[str]:
    """What `load` says about a path, one line a problem, the file left out."""
    try:
        load([path])
    except BadDocuments as error:
        out = []
        for problem in error.problems:
            assert problem.where is not None
            place = str(problem.where).removeprefix(f"{path}:")
            out.append(f"{place}: {problem.what} | {problem.remedy}".replace(str(path), "FILE"))
        return out
    return []


@pytest.mark.parametrize("row", [*ROWS, *LARGE])
def test_bad_document(row: str, tmp_path: Path) -> None:
    text, said = ROWS.get(row) or LARGE[row]
    file = tmp_path / "documents.yaml"
    file.write_text(text, encoding="utf-8")
    assert "\n".join(messages(file)) == said.rstrip("\n")


def test_the_table_is_as_the_program_writes_it(tmp_path: Path) -> None:
    """Also how the table is regenerated; the one above says which row is wrong."""
    file = tmp_path / "documents.yaml"

    def again(row: re.Match[str]) -> str:
        file.write_text(row[2], encoding="utf-8")
        return row[0].replace(f"```text\n{row[3]}", "```text\n" + "".join(f"{m}\n" for m in messages(file)))

    golden_files.check(TABLE, _ROW.sub(again, (golden_files.FOLDER / TABLE).read_text("utf-8")))


@pytest.mark.parametrize(
    ("axes", "values", "said"),
    [
        (
            "abc",
            100,
            "the matrix makes 1,000,000 combinations; at most 5,000 members are possible",
        ),
        (
            "ab",
            71,
            "the matrix makes 5,041 members; at most 5,000 are possible",
        ),
        ("abc", 17, ""),
    ],
)
def test_a_matrix_that_is_too_large_is_refused(axes: str, values: int, said: str, tmp_path: Path) -> None:
    file = tmp_path / "set.yaml"
    file.write_text(a_set(axes, values))
    assert [m.split(" | ")[0] for m in messages(file)] == ([f"5:3: {said}"] if said else [])


def test_a_matrix_of_eight_full_axes_is_counted_not_gone_through(tmp_path: Path) -> None:
    file = tmp_path / "set.yaml"
    file.write_text(a_set("abcdefgh", 5000))
    assert messages(file)[0].split(" | ")[0] == (
        f"5:3: the matrix makes {5000**8:,} combinations; at most 5,000 members are possible"
    )


def test_all_mistakes_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    for i, (text, _) in enumerate(ROWS.values()):
        mine = text.replace("{name: a}", f"{{name: a, namespace: n{i}}}")
        (tmp_path / f"{i:03}.yaml").write_text(mine, encoding="utf-8")
    with pytest.raises(BadDocuments) as caught:
        load([tmp_path])
    places = [p.where for p in caught.value.problems if p.where is not None]
    assert {Path(p.file).name for p in places} == {f"{i:03}.yaml" for i in range(len(ROWS))}
    assert places == sorted(places)


def test_a_file_of_more_than_10_mib_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    file.write_text(EXPERIMENT + "spec:\n  description: >\n" + "    words\n" * 1_100_000)
    assert messages(file) == ["FILE: the file is larger than 10 MiB | split it into several files"]


def test_a_document_of_10_mb_is_refused_and_its_neighbours_are_read(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    large = EXPERIMENT + "spec:\n  description: >\n" + "    words\n" * 1_000_000
    other = EXPERIMENT.replace("name: a", "name: b")
    file.write_text(f"{EXPERIMENT}spec: {{nme: x}}\n---\n{large}---\n{other}spec: {{nam: x}}\n")
    assert messages(file) == [
        "4:8: unknown field spec.nme | did you mean name?",
        (
            "5:1: the document is larger than 1 MiB, so no cluster could take it | "
            "split it; a set of experiments is written as an ExperimentSet"
        ),
        "1000015:8: unknown field spec.nam | did you mean name?",
    ]


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes((EXPERIMENT + "spec: {name: Größe}\n").encode("latin-1"))
    assert messages(file) == ["4:16: the file is not UTF-8: byte 0xf6 | save it as UTF-8"]


def test_unicode_names_pass(tmp_path: Path) -> None:
    file = tmp_path / "unicode.yaml"
    file.write_text(EXPERIMENT + 'spec: {name: "Größe/実験/🧪", tags: {größe: "🧪"}}\n', encoding="utf-8")
    spec = load([file]).documents[0].document.spec
    assert (spec.name, spec.tags) == ("Größe/実験/🧪", {"größe": "🧪"})


def test_anchors_and_merges_are_read_and_located(tmp_path: Path) -> None:
    file = tmp_path / "anchors.yaml"
    file.write_text(
        f"{API}kind: Prompt\nmetadata: {{name: p}}\nspec:\n  tags: &common\n    team: a\n    stage: dev\n"
        "  versions:\n    - key: v\n      template: x\n      tags:\n"
        "        <<: *common\n        stage: prod\n"
        "    - key: w\n      template: z\n      tags: *common\n"
    )
    one = load([file]).documents[0]
    first, second = one.document.spec.versions
    assert (first.tags, second.tags) == ({"team": "a", "stage": "prod"}, {"team": "a", "stage": "dev"})
    assert one.where("spec", "versions", 0, "tags", "stage").line == 13
    assert one.where("spec", "versions", 0, "tags", "team").line == 6


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n---\n", "null\n"])
def test_an_empty_file_declares_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text(text)
    found = load([tmp_path])
    assert found.documents == ()
    assert found.notes == (f"no documents in {tmp_path}",)
    assert found.whole
