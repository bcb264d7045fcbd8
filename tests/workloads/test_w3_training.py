"""W3, training of question-answering models."""

from __future__ import annotations

import json
import re
from typing import Any
from unittest.mock import create_autospec

import pytest

from mlflow_platform.client.run import Recorder
from mlflow_platform.client.training import log_sample_predictions
from mlflow_platform.errors import BadInput
from tests.workloads.ran import Workload, Workloads

pytest_plugins = ("tests.workloads.fixtures",)


@pytest.fixture(scope="module")
def training(workloads: Workloads) -> Workload:
    return workloads.run("training.py", "load")


def trained(training: Workload) -> Any:
    return training.client.get_run(training.printed["run"])


def test_w3_1_five_lines_log_to_a_local_server(workloads: Workloads) -> None:
    program = workloads.folder / "five.py"
    program.write_text(
        "from mlflow_platform.client import MLflowTracker\n"
        "tracker = MLflowTracker()\n"
        'with tracker.start_run("first"):\n'
        '    tracker.log_params({"model": "llama"})\n'
        '    tracker.log_metrics({"accuracy": 0.9})\n'
    )
    logged = workloads.run(program)
    run = logged.run("params.model = 'llama'")
    assert (run.info.run_name, run.info.status, run.data.metrics["accuracy"]) == ("first", "FINISHED", 0.9)


def test_w3_1_names_of_model_time_and_setting_are_unique(training: Workload) -> None:
    names = {r.info.run_name for r in training.runs()}
    assert len(names) == 2
    for name in names:
        assert re.fullmatch(r"llama-3-8b-\d{8}T\d{6}\.\d{6}Z-lr-0\.01", name)


def test_w3_2_parameters_of_local_inference(training: Workload) -> None:
    assert trained(training).data.params == {
        "lm_studio": "true",
        "lm_studio_model": "llama-3-8b",
        "lm_studio_api_url": "http://127.0.0.1:1234/v1",
        "model_format": "gguf",
    }


def test_w3_3_a_program_is_a_model_and_answers_the_same_when_loaded(training: Workload) -> None:
    assert training.printed["uri"].startswith("models:/m-")
    assert training.printed["same"] is True
    model = training.client.get_logged_model(training.printed["uri"].removeprefix("models:/"))
    assert (model.name, str(model.source_run_id)) == ("qa", training.printed["run"])


def test_w3_5_metrics_by_epoch_and_sample_predictions(training: Workload) -> None:
    run = trained(training)
    history = training.client.get_metric_history(run.info.run_id, "accuracy")
    assert [(m.step, m.value) for m in history] == [(0, 0.0), (1, 1 / 3), (2, 2 / 3)]
    rows = json.loads(training.artifact(run, "sample_predictions.json"))
    assert [r["prediction"] for r in rows] == training.printed["predictions"]
    assert [r["truth"] for r in rows] == ["FOAF", "SKOS", "an animal"]
    assert rows[0]["question"] == "Which ontology is about people?"


def test_w3_5_columns_of_different_length_are_no_table() -> None:
    recorder = create_autospec(Recorder, instance=True)
    with pytest.raises(BadInput, match="2 questions, 1 predictions and 2 truths"):
        log_sample_predictions(recorder, ["a", "b"], ["x"], ["y", "z"])
    assert not recorder.mock_calls
