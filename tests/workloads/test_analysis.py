"""The rows of W1, W2, W3 and W4 that read runs and traces back, against a real server."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from mlflow_platform.cli.root import run
from mlflow_platform.client.analysis import comparison, curriculum, frames, memory, reading, statistics
from mlflow_platform.errors import EXIT_DIFFERENCES, EXIT_ERROR, EXIT_OK, EXIT_USAGE
from mlflow_platform.local import Stack

EXPERIMENT = "analysis/it's 100 %"
ONTOLOGIES, STAGES, STRATEGIES = (
    ("prov", "sio", "it's \"new"),
    ("easy", "medium", "hard"),
    ("none", "prov", "sio"),
)


@dataclass(frozen=True)
class Logged:
    client: MlflowClient
    experiment: reading.Experiment
    ids: list[str]


@pytest.fixture(scope="module")
def logged(stack: Stack) -> Iterator[Logged]:
    """27 runs: every ontology at every stage with every memory; better at later stages and with a memory."""
    with pytest.MonkeyPatch.context() as patch:
        mlflow.set_tracking_uri(None)  # takes $MLFLOW_TRACKING_URI away if there was another one
        for name, value in stack.endpoints().environment().items():
            patch.setenv(name, value)
        client = MlflowClient()
        experiment = client.create_experiment(EXPERIMENT)
        ids = []
        for number in range(27):
            ontology, stage = ONTOLOGIES[number % 3], STAGES[number // 3 % 3]
            strategy = STRATEGIES[number // 9]
            accuracy = 0.5 + 0.1 * (number // 3 % 3) + 0.05 * (number // 9) + 0.001 * (number % 3)
            one = client.create_run(
                experiment, start_time=1_700_000_000_000 + number, run_name=f"run {number}"
            )
            metrics = [Metric("accuracy", accuracy, 1, 0), Metric("converged", float(number % 2), 1, 0)]
            metrics += [Metric("loss", 1 / (step + 1), 1_700_000_000_000 + step, step) for step in range(5)]
            params = {"ontology": ontology, "stage": stage, "model": "fake", "question": f"q{number % 9}"}
            tags = {"memory": strategy, "topic": ontology}
            client.log_batch(
                one.info.run_id,
                metrics,
                [Param(k, v) for k, v in params.items()],
                [RunTag(k, v) for k, v in tags.items()],
            )
            client.set_terminated(one.info.run_id, end_time=1_700_000_000_000 + number + 1500)
            ids.append(one.info.run_id)
        odd = client.create_run(experiment, run_name="odd\x1b[31m").info.run_id
        client.log_metric(odd, "accuracy", math.nan)
        yield Logged(client, reading.experiments(client, [EXPERIMENT])[0], ids)


def found_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert run([*arguments, "--format", "json"]) == 0, capsys.readouterr().err
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


def test_w1_7_experiments_are_listed(logged: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    assert EXPERIMENT in [row["experiment"] for row in found_by(capsys, "runs", "list")]
    listed = found_by(capsys, "runs", "list", EXPERIMENT, "--limit", "5")
    assert len(listed) == 5
    assert run(["runs", "list", EXPERIMENT]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert r"odd\x1b[31m" in printed
    assert run(["runs", "list", EXPERIMENT[:-1]]) == EXIT_ERROR
    assert f"did you mean {EXPERIMENT!r}?" in capsys.readouterr().err


def test_w1_7_a_run_whose_times_are_nanoseconds_is_listed_with_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    of = [
        client.create_run("0", start_time=start) for start in (1_700_000_000_000, 1_700_000_000_000_000_000)
    ]
    started = {
        r["run id"]: r["started"] for r in found_by(capsys, "runs", "list", "0", "--tracking-uri", uri)
    }
    first, second = (r.info.run_id for r in of)
    assert started == {first: "2023-11-14 22:13:20Z", second: "1700000000000000000 ms"}
    frame = frames.runs_frame(reading.runs(client, reading.experiments(client))).set_index("run_id")
    assert frame["start_time"].isna().to_dict() == {first: False, second: True}


@pytest.mark.parametrize(
    "arguments",
    [
        ("traces", "search", "--slower-than", "nan"),
        ("traces", "search", "--slower-than", "inf"),
        ("traces", "search", "--slower-than", "1e30"),
        ("runs", "summary", "accuracy", "--by", "stage", "--level", "nan"),
    ],
)
def test_w1_7_what_is_no_number_of_a_range_is_wrong_usage(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(list(arguments)) == EXIT_USAGE
    assert arguments[-2] in capsys.readouterr().err


def test_w1_7_runs_are_searched_by_plain_flags(logged: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    search = ("runs", "search", "-e", EXPERIMENT)
    wanted = {i for n, i in enumerate(logged.ids) if n % 3 == 0 and n % 2}
    found = found_by(capsys, *search, "--ontology", "prov", "--converged", "true")
    assert {row["run id"] for row in found} == wanted
    assert {row["ontology"] for row in found} == {"prov"}
    by_filter = found_by(capsys, *search, "--filter", "params.ontology = 'prov' and metrics.converged = 1")
    assert {row["run id"] for row in by_filter} == wanted
    both = found_by(capsys, *search, "--ontology=prov", "--filter", "metrics.converged = 1")
    assert {row["run id"] for row in both} == wanted
    better = found_by(capsys, *search, "--accuracy", ">= 0.75", "--topic", "~SI%")
    assert {row["run id"] for row in better} == {
        i for n, i in enumerate(logged.ids) if n % 3 == 1 and (n // 3 % 3, n // 9) in ((2, 1), (2, 2))
    }


def test_w1_7_a_value_is_never_taken_for_a_filter(logged: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    search = ("runs", "search", "-e", EXPERIMENT)
    assert found_by(capsys, *search, "--ontology", "x' or params.ontology != 'x") == []
    assert run([*search, "--ontology", ONTOLOGIES[2]]) == EXIT_ERROR
    assert "cannot say the value" in capsys.readouterr().err
    assert len(found_by(capsys, *search, "--ontology", "~it_s%")) == 9
    assert run([*search, "--ontologie", "prov"]) == EXIT_ERROR
    assert "did you mean 'ontology'?" in capsys.readouterr().err
    assert run([*search, "--accuracy", "good"]) == EXIT_ERROR
    assert "'good' is no number" in capsys.readouterr().err
    assert run([*search, "--ontology"]) == EXIT_USAGE
    assert run([*search, "--filter", "params.ontology = "]) == EXIT_ERROR
    assert "Traceback" not in capsys.readouterr().err


def from_json(file: Path) -> pandas.DataFrame:
    return pandas.DataFrame(json.loads(file.read_text()))


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_w1_7_an_experiment_is_exported(logged: Logged, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"runs.{suffix}"
    assert run(["runs", "export", "-e", EXPERIMENT, str(file)]) == 0
    read = {"csv": pandas.read_csv, "json": from_json, "parquet": pandas.read_parquet}[suffix]
    frame = read(file)
    assert list(frame["run_id"])[: len(logged.ids)] == logged.ids
    for row in frame.to_dict("records")[:27]:
        data = logged.client.get_run(row["run_id"]).data
        assert row["params.ontology"] == data.params["ontology"]
        assert row["metrics.accuracy"] == data.metrics["accuracy"]
        assert row["duration_seconds"] == 1.5


def test_w1_7_every_logged_value_is_exported(logged: Logged, tmp_path: Path) -> None:
    file = tmp_path / "history.parquet"
    assert run(["runs", "export", "-e", EXPERIMENT, "--history", str(file)]) == 0
    frame = pandas.read_parquet(file)
    losses = frame[frame["metric"] == "loss"]
    assert len(losses) == 27 * 5
    one = losses[losses["run_id"] == logged.ids[3]]
    assert list(one["value"]) == [1 / (step + 1) for step in range(5)]
    assert list(one["step"]) == [0, 1, 2, 3, 4]


@pytest.mark.filterwarnings(
    "ignore:.*Any type hint is inferred"
)  # MLflow, when its tracing is first imported
def test_w1_8_runs_and_traces_are_data_frames(logged: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    runs = frames.runs_frame(reading.runs(logged.client, [logged.experiment]))
    assert len(runs) == 28
    assert runs["metrics.accuracy"].dtype == float
    assert str(runs["start_time"].dt.tz) == "UTC"
    assert runs.groupby("params.ontology")["metrics.accuracy"].mean()["sio"] == pytest.approx(0.651)
    mlflow.set_experiment(EXPERIMENT)
    for number in range(3):
        span = mlflow.start_span_no_context(f"answer {number}", inputs={"question": number})
        span.end(status="ERROR" if number == 2 else "OK")
    mlflow.flush_trace_async_logging()
    traces = frames.traces_frame(reading.traces(logged.client, [logged.experiment]))
    assert sorted(traces["status"]) == ["ERROR", "OK", "OK"]
    assert (traces["duration_ms"] >= 0).all()
    (failed,) = found_by(capsys, "traces", "search", "-e", EXPERIMENT, "--status", "ERROR")
    assert failed["trace id"] == traces[traces["status"] == "ERROR"]["trace_id"].item()
    assert [r["trace id"] for r in found_by(capsys, "traces", "search", "--name", "answer 2")] == [
        failed["trace id"]
    ]


def test_w1_9_progress_across_stages_is_a_table_for_a_publication(
    logged: Logged, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = list(reading.runs(logged.client, [logged.experiment]))
    groups = curriculum.stages(found, "stage", "accuracy", STAGES)
    table = curriculum.progress(groups, by="stage", metric="accuracy")
    assert [row[:2] for row in table.rows] == [(s, 9) for s in STAGES]
    assert [row[6] for row in table.rows][1:] == pytest.approx([0.1, 0.1])
    assert all(row[7] is not None and float(row[7]) < 0.001 for row in table.rows[1:])
    assert "Kendall's tau-b" in table.notes[0]
    assert "Welch's t-test, Holm-corrected" in table.notes[0]
    across = curriculum.across(found, ontology="ontology", stage="stage", metric="accuracy", order=STAGES)
    assert [row[0] for row in across.rows] == sorted(ONTOLOGIES)
    assert [row[-1] for row in across.rows] == pytest.approx([0.2, 0.2, 0.2])
    figure = tmp_path / "stages.svg"
    summary = [
        "runs",
        "summary",
        "accuracy",
        "--by",
        "stage",
        "--stages",
        "easy,medium,hard",
        "-e",
        EXPERIMENT,
    ]
    assert run([*summary, "--format", "latex", "--figure", str(figure)]) == 0
    assert r"medium & 9 & 0.651 &" in capsys.readouterr().out
    assert b"<svg" in figure.read_bytes()
    assert run([*summary[:5], "--stages", "easy,expert", "-e", EXPERIMENT]) == EXIT_ERROR
    assert "no run has stage = 'expert'" in capsys.readouterr().err


def test_w1_9_ontologies_are_compared_with_intervals(
    logged: Logged, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = ["runs", "summary", "accuracy", "--by", "ontology", "-e", EXPERIMENT, "--format"]
    assert run([*summary, "markdown"]) == 0
    assert "| prov | 9 | 0.65 |" in capsys.readouterr().out
    assert run([*summary, "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (group,) = [g for g in found["groups"] if g["ontology"] == "prov"]
    assert (group["n"], group["95 % CI from"] < 0.65 < group["95 % CI to"]) == (9, True)
    assert {d["test"] for d in found["differences"]} == {"Welch's t-test, Holm-corrected"}


def test_w1_10_memories_are_evaluated(logged: Logged) -> None:
    found = [r for r in reading.runs(logged.client, [logged.experiment]) if "memory" in r.tags]
    table = memory.transfer(found, source="memory", target="ontology", metric="accuracy")
    rows = {(r[0], r[1]): r for r in table.rows}
    assert set(rows) == {(of, to) for of in ("prov", "sio") for to in ONTOLOGIES}
    assert rows["prov", "prov"][2] == "within"
    assert rows["prov", "sio"][2] == "across"
    assert rows["sio", "prov"][5] == pytest.approx(0.1)
    paired = memory.strategies(
        [r for r in found if r.params["ontology"] == "prov"],
        by="memory",
        first="none",
        second="prov",
        metric="accuracy",
        pair="stage",
    )
    assert paired.note == "all pairs differ by the same"
    assert paired.difference == pytest.approx(0.05)
    free = memory.strategies(found, by="memory", first="none", second="sio", metric="accuracy", test="rank")
    assert free.test == "Mann-Whitney U test"
    assert free.p_value is not None
    assert free.p_value == pytest.approx(
        statistics.independent(
            comparison.grouped(found, "memory", "accuracy")["none"],
            comparison.grouped(found, "memory", "accuracy")["sio"],
            test="rank",
        ).p_value
    )


def test_w2_5_the_best_run(logged: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    (best,) = found_by(capsys, "runs", "best", "accuracy", "-e", EXPERIMENT)
    assert best["run id"] == logged.ids[26]  # not the one with NaN
    (best,) = found_by(capsys, "runs", "best", "accuracy", "--least", "-e", EXPERIMENT, "--ontology", "sio")
    assert best["run id"] == logged.ids[1]
    (best,) = found_by(capsys, "runs", "best", "loss", "-e", EXPERIMENT)
    assert best["run id"] == logged.ids[0]  # all equal: the first
    assert run(["runs", "best", "nonsense", "-e", EXPERIMENT]) == EXIT_ERROR
    assert "no run here has a value of the metric 'nonsense'" in capsys.readouterr().err


GATES = """\
gates:
  accuracy: "> 0.75"
  loss: <= 0.5
"""


def test_w3_4_targets_are_checked_and_the_alias_moves_only_when_all_are_met(
    logged: Logged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gates.yaml"
    file.write_text(GATES)
    model, good, bad = "analysis-gated", logged.ids[26], logged.ids[0]
    logged.client.create_registered_model(model)
    for one in (bad, good):
        logged.client.create_model_version(model, f"runs:/{one}/model", one)
    logged.client.set_registered_model_alias(model, "champion", "1")
    check = ["gates", "check", str(file), "--model", model, "--alias", "champion", "--run"]
    assert run([*check, bad]) == EXIT_DIFFERENCES
    printed = capsys.readouterr()
    assert re.search(r"accuracy +0\.5 +> 0\.75 +FAIL", printed.out)
    assert "1 of 2 gates are not met" in printed.err
    assert logged.client.get_model_version_by_alias(model, "champion").version in (1, "1")
    assert run([*check, good]) == EXIT_OK
    assert logged.client.get_model_version_by_alias(model, "champion").version in (2, "2")
    assert run([*check, logged.ids[5]]) == EXIT_ERROR
    assert "no version made from the run" in capsys.readouterr().err
    assert (
        run(["gates", "check", str(file), "-e", EXPERIMENT, "--filter", "params.stage = 'hard'"]) == EXIT_OK
    )


def test_w3_4_every_mistake_of_the_targets_is_told_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gates.yaml"
    file.write_text("gates:\n  accuracy: 0.8\n  loss: '> high'\ngate: {}\n")
    assert run(["gates", "check", str(file), "--run", "0" * 32]) == EXIT_ERROR
    told = capsys.readouterr().err
    for place in (":2:13: 0.8 is no target", ":3:9: '> high' is no target", ":4:1: unknown field 'gate'"):
        assert f"{file}{place}" in told
    file.write_text("gates: [\n")
    assert run(["gates", "check", str(file), "--run", "0" * 32]) == EXIT_ERROR
    assert "this is no YAML" in capsys.readouterr().err


def test_w3_6_runs_of_a_program_are_compared(logged: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    compare = ("runs", "compare", "-e", EXPERIMENT, "--ontology", "prov", "--stage", "hard")
    rows = found_by(capsys, *compare, "--best", "accuracy")
    assert [row["accuracy"] for row in rows] == pytest.approx([0.8, 0.75, 0.7])
    assert str(rows[0]["run"]).endswith(" *")
    assert "model" not in rows[0]  # equal in all
    assert "model" in found_by(capsys, *compare, "--all")[0]
    named = found_by(capsys, "runs", "compare", *logged.ids[:2], "--param", "ontology")
    assert [(row["run id"], row["ontology"]) for row in named] == [
        (logged.ids[0], ONTOLOGIES[0]),
        (logged.ids[1], ONTOLOGIES[1]),
    ]
    assert run(["runs", "compare", "nonsense"]) == EXIT_ERROR
    assert "is no run id" in capsys.readouterr().err


def test_w4_5_a_comparison_becomes_a_report(logged: Logged, tmp_path: Path) -> None:
    page, text = tmp_path / "report.html", tmp_path / "report.md"
    compare = ["runs", "compare", *logged.ids[:3], "--metric", "loss", "--metric", "accuracy", "--report"]
    assert run([*compare, str(page)]) == EXIT_OK
    html = page.read_text()
    assert html.count("data:image/svg+xml;base64,") == 2
    assert not re.search(r'(src|href)=(?!"data:)', html)  # loads nothing
    assert run([*compare, str(text)]) == EXIT_OK
    pictures = re.findall(r"!\[.*\]\((.*)\)", text.read_text())
    assert pictures == ["report-loss.svg", "report-accuracy.svg"]
    assert all((tmp_path / p).read_bytes().startswith(b"<?xml") for p in pictures)
    curve = tmp_path / "loss.png"
    assert run(["runs", "plot", "loss", *logged.ids[:3], "-o", str(curve)]) == EXIT_OK
    assert curve.read_bytes().startswith(b"\x89PNG")


DOCUMENT = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text("utf-8")


def test_the_document_does_what_it_says(
    logged: Logged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL) for line in block.splitlines()
    ]
    assert len(lines) == 16
    for line in lines:
        command = [EXPERIMENT if word == "research" else word for word in shlex.split(line)]
        assert run(command[1:]) == EXIT_OK, line
    assert {p.name for p in tmp_path.iterdir()} >= {"runs.parquet", "metrics.csv", "slow.jsonl", "memory.svg"}
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    exec(program.replace('"research"', repr(EXPERIMENT)), {})  # noqa: S102 - the document's own program


def test_another_kind_of_server_is_read_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert run(["runs", "list", "--tracking-uri", uri]) == EXIT_ERROR
    assert f"there is no {tmp_path}/mlflow.db" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()
    client = MlflowClient(uri, uri)
    one = client.create_run(client.create_experiment("local", artifact_location=str(tmp_path)))
    client.log_metric(one.info.run_id, "accuracy", 0.9)
    (best,) = found_by(capsys, "runs", "best", "accuracy", "-e", "local", "--tracking-uri", uri)
    assert best["run id"] == one.info.run_id


def test_a_server_that_is_away_is_said_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert run(["runs", "list", "--tracking-uri", "http://127.0.0.1:9"]) == EXIT_ERROR
    assert "the tracking server does not answer" in capsys.readouterr().err
