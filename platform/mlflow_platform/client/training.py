"""What trainings of question-answering models log besides params and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from mlflow_platform.client.names import run_name
from mlflow_platform.client.run import Recorder
from mlflow_platform.errors import BadInput


def training_run_name(model: str, setting: str, *, now: datetime | None = None) -> str:
    """`<model>-<time>-<setting>`, unique by its time in UTC; `setting` is the one that matters: `lr=0.01`."""
    return run_name("{model}-{timestamp}-{setting}", {"model": model, "setting": setting}, now=now)


def local_inference(
    model: str, *, api_url: str = "http://127.0.0.1:1234/v1", model_format: str | None = None
) -> dict[str, str | None]:
    """Params of a model that LM Studio serves on this machine (default port: 1234), for `log_params`."""
    return {
        "lm_studio": "true",
        "lm_studio_model": model,
        "lm_studio_api_url": api_url,
        "model_format": model_format,
    }


def log_sample_predictions(
    run: Recorder, questions: Sequence[str], predictions: Sequence[Any], truth: Sequence[Any]
) -> None:
    """`sample_predictions.json`: one object a question. Raises `BadInput` for columns of different length."""
    if not len(questions) == len(predictions) == len(truth):
        raise BadInput(
            f"{len(questions)} questions, {len(predictions)} predictions and {len(truth)} truths are no table"
        )
    columns: Mapping[str, Sequence[Any]] = {"question": questions, "prediction": predictions, "truth": truth}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    run.log_dict_artifact(rows, "sample_predictions.json")
