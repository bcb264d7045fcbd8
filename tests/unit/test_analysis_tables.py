"""Tables as text, Markdown, LaTeX, CSV, JSON and HTML, with cells that try to break out."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pandas
import pytest

from mlflow_platform.client.analysis import exporting, memory, tables
from mlflow_platform.client.analysis.gates import gate, judged, met
from mlflow_platform.client.analysis.tables import Table
from mlflow_platform.errors import BadInput

WICKED = Table(
    ("name", "value"),
    (
        ("a|b <script>alert(1)</script>", 0.123456789),
        ("50 % & $x_1$", math.nan),
        ("line\nbreak \x1b[31mred", None),
    ),
    title="T & T",
)


def test_no_cell_moves_the_cursor_or_breaks_a_line() -> None:
    text = tables.as_text(WICKED)
    assert "\x1b" not in text
    assert len(text.splitlines()) == 1 + 1 + 3
    assert r"line\nbreak \x1b[31mred" in text
    assert "0.12346" in text


def test_wide_characters_stay_in_their_columns() -> None:
    text = tables.as_text(Table(("a", "b"), (("日本", 1), ("xy", 22))))
    assert text.splitlines() == ["a      b", "日本   1", "xy    22"]


def test_markdown_shows_markup_as_text() -> None:
    lines = tables.as_markdown(WICKED).splitlines()
    assert lines[4].startswith(r"| a\|b &lt;script&gt;alert(1)&lt;/script&gt; |")
    assert all(line.replace(r"\|", "").count("|") == 3 for line in lines[2:])


def test_latex_escapes_what_latex_reads() -> None:
    text = tables.as_latex(WICKED)
    assert r"50 \% \& \$x\_1\$ & nan \\" in text
    assert r"line\textbackslash{}nbreak" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1


def test_html_escapes_everything() -> None:
    text = tables.as_html(WICKED)
    assert "<script>" not in text
    assert "T &amp; T" in text


def test_csv_and_json_are_exact() -> None:
    rows = list(csv.reader(io.StringIO(tables.as_csv(WICKED))))
    assert rows[1] == ["a|b <script>alert(1)</script>", "0.123456789"]
    assert rows[3] == ["line\nbreak \x1b[31mred", ""]
    assert [r["value"] for r in json.loads(tables.as_json(WICKED))] == [0.123456789, "NaN", None]


ROWS = [
    {"run_id": "1", "start_time": 5, "metrics.a": 0.1, "params.p": 'x, "y"\nz'},
    {"run_id": "2", "start_time": None, "metrics.a": math.inf, "tags.t": "ü"},
    {"run_id": "3", "start_time": 7, "metrics.b": math.nan},
]


@pytest.mark.parametrize("suffix", exporting.SUFFIXES)
def test_an_export_holds_every_value(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"runs{suffix}"
    assert exporting.write(iter(ROWS), file, exporting.RUN) == 3
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    if suffix == ".parquet":
        frame = pandas.read_parquet(file)
    elif suffix == ".csv":
        frame = pandas.read_csv(file, dtype={"run_id": str})
    else:
        frame = pandas.DataFrame(
            json.loads(file.read_text())
            if suffix == ".json"
            else map(json.loads, file.read_text().splitlines())
        )
    assert list(frame["run_id"]) == ["1", "2", "3"]
    assert float(frame["metrics.a"][0]) == 0.1
    assert float(frame["metrics.a"][1]) == math.inf
    assert frame["params.p"][0] == ROWS[0]["params.p"]
    assert frame["tags.t"][1] == "ü"
    if suffix == ".parquet":  # JSON has the text NaN, CSV the word nan, which pandas takes for missing
        assert math.isnan(frame["metrics.b"][2])


def test_a_failed_export_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_text("before")

    def failing() -> object:
        yield ROWS[0]
        raise RuntimeError("the server has gone")

    with pytest.raises(RuntimeError):
        exporting.write(failing(), file, exporting.RUN)  # type: ignore[arg-type]
    assert file.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["runs.csv"]
    with pytest.raises(BadInput, match="end the name with"):
        exporting.write([], tmp_path / "runs.xls", exporting.RUN)


def test_gates() -> None:
    wanted = [gate("accuracy", "> 0.80"), gate("loss", "<= 2"), gate("recall", ">=0.5")]
    assert met(wanted, {"accuracy": 0.81, "loss": 2.0, "recall": 0.5})
    for worse in ({"accuracy": 0.80}, {"loss": 2.01}, {"recall": math.nan}):
        assert not met(wanted, {"accuracy": 0.81, "loss": 2.0, "recall": 0.5, **worse})
    assert not met(wanted, {"accuracy": 0.9, "loss": 1.0})
    assert [r[3] for r in judged(wanted, {"accuracy": 0.9}).rows] == ["pass", "FAIL", "FAIL"]
    for wrong in (0.8, "0.8", "= 0.8", "> high", "> nan", None, "> 0.8 or so"):
        with pytest.raises(BadInput, match="is no target for accuracy"):
            gate("accuracy", wrong)


def test_retrieval_of_a_textbook_example() -> None:
    """Relevant at ranks 1, 3 and 6 of the first six, of four in all (Manning et al., chapter 8)."""
    found = memory.retrieval(["a", "x", "b", "y", "z", "c"], {"a", "b", "c", "d"}, 6)
    assert found.precision == pytest.approx(3 / 6)
    assert found.recall == pytest.approx(3 / 4)
    assert found.reciprocal_rank == 1.0
    gained, ideal = 1 + 1 / 2 + 1 / math.log2(7), 1 + 1 / math.log2(3) + 1 / 2 + 1 / math.log2(5)
    assert found.ndcg == pytest.approx(gained / ideal)


def test_retrieval_at_its_edges() -> None:
    assert memory.retrieval([], {"a"}, 3) == memory.Effectiveness(0.0, 0.0, 0.0, 0.0)
    assert memory.retrieval(["a"], set(), 3) == memory.Effectiveness(0.0, None, 0.0, None)
    assert memory.retrieval(["a", "a", "a"], {"a"}, 3).precision == pytest.approx(1 / 3)
    found = memory.effectiveness([(["a"], {"a"}), (["x"], set())], 1)
    assert (found.precision, found.recall) == (0.5, 1.0)
    with pytest.raises(BadInput, match="at least 1"):
        memory.retrieval(["a"], {"a"}, 0)
