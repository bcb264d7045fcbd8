"""Child program: fills the server, database or folder of MLFLOW_TRACKING_URI, as people do; also with an
older MLflow. The argument is a prefix of all names."""

import os
import sys
import tempfile
import time
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import AssessmentSource, Metric, Param, RunTag

AWKWARD = 'tab\there, newline\nhere, back\\slash, \\N, quote\'s "both", 日本語 🙂'


def main(prefix: str) -> None:
    client = MlflowClient()
    for number in range(2):
        experiment = mlflow.set_experiment(f"{prefix}-{number}").experiment_id
        client.set_experiment_tag(experiment, "team", AWKWARD)
        for index in range(3):
            run = log_run(client, f"run {index}")
        log_trace(number)
        log_model(client, prefix, run, number)
    client.delete_run(log_run(client, "deleted"))
    mlflow.set_experiment(f"{prefix}-deleted")
    log_run(client, "in a deleted experiment")
    client.delete_experiment(client.get_experiment_by_name(f"{prefix}-deleted").experiment_id)
    mlflow.register_prompt(f"{prefix}-prompt", "Answer {{ question }} " + AWKWARD, commit_message="first")
    mlflow.register_prompt(f"{prefix}-prompt", "Answer briefly: {{ question }}")
    mlflow.set_prompt_alias(f"{prefix}-prompt", "best", 1)


def log_run(client: MlflowClient, name: str) -> str:
    with mlflow.start_run(run_name=name) as active:
        run = active.info.run_id
        values = [0.1 + 0.2, float("nan"), float("inf"), -float("inf"), 1e-300, -1e300]
        now = int(time.time() * 1000)
        metrics = [Metric("loss", value, now + step, step) for step, value in enumerate(values)]
        metrics += [Metric("m/deep", float(step), now, step * 10) for step in range(20)]
        params = [Param("p", "a value, longer"), Param("q/deep", "1")]
        client.log_batch(run, metrics, params, [RunTag("note", AWKWARD)])
        mlflow.log_input(MetaDataset(CodeDatasetSource({"a": "b"}), name="data"), context="training")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "deep" / "er").mkdir(parents=True)
            (Path(folder) / "deep" / "er" / "ümlaut and space.bin").write_bytes(run.encode() * 40_000)
            (Path(folder) / "empty").write_bytes(b"")
            mlflow.log_artifacts(folder)
        return run


def log_trace(number: int) -> None:
    with mlflow.start_span("root", attributes={"number": number}) as span:
        span.set_inputs({"question": AWKWARD})
        with mlflow.start_span("child") as child:
            child.set_outputs({"answer": 42})
        mlflow.update_current_trace(tags={"kind": "a test"})
    mlflow.flush_trace_async_logging()
    human = AssessmentSource("HUMAN", "somebody")
    mlflow.log_feedback(trace_id=span.trace_id, name="good", value=True, source=human, rationale=AWKWARD)
    mlflow.log_expectation(trace_id=span.trace_id, name="answer", value={"is": 42}, source=human)


def log_model(client: MlflowClient, prefix: str, run: str, number: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "MLmodel").write_text(f"flavors: {{}}\nnumber: {number}\n")
        model = client.create_logged_model(
            mlflow.get_experiment_by_name(f"{prefix}-{number}").experiment_id,
            name="classifier",
            source_run_id=run,
            params={"depth": "3"},
            tags={"owner": AWKWARD},
        )
        client.log_model_artifacts(model.model_id, folder)
        client.finalize_logged_model(model.model_id, "READY")
        client.log_metric(run, "accuracy", 0.9, step=3, model_id=model.model_id)
        client.log_artifacts(run, folder, "model")
    name = f"{prefix}-model"
    if number == 0:
        client.create_registered_model(name, tags={"a": AWKWARD}, description=AWKWARD)
    address = f"models:/{model.model_id}"
    client.create_model_version(name, address, run, tags={"k": "v"}, model_id=model.model_id)
    version = client.create_model_version(name, client.get_run(run).info.artifact_uri + "/model", run)
    client.set_registered_model_alias(name, f"alias-{number}", version.version)


if __name__ == "__main__":
    os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"
    main(sys.argv[1])
