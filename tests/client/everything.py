"""A program that logs everything that one logs by hand, and what is on the server after it."""

from __future__ import annotations

from typing import Any

#: One run with everything that a program logs by hand.
EVERYTHING = """
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run(run_name="one") as run:
    for step in range(5):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metrics({"nan": float("nan"), "inf": float("inf")})
    mlflow.log_params({f"p{i}": i for i in range(150)})
    mlflow.set_tags({"team": "search", "ünïcode": "\\u2603\\n"})
    mlflow.log_text("hello", "notes/a.txt")
    mlflow.log_dict({"a": 1}, "b.json")
    numbers = __import__("numpy").arange(3)
    mlflow.log_input(mlflow.data.from_numpy(numbers, name="numbers"), context="training")
    mlflow.log_metric("numbered", 0.5, step=numbers[2])
    mlflow.log_metric("asynchronous", 2.0, synchronous=False).wait()
    with mlflow.start_run(nested=True, run_name="child") as child:
        mlflow.log_param("stage", "draft")
    client.set_tag(run.info.run_id, "gone", "x")
    client.delete_tag(run.info.run_id, "gone")
print(json.dumps({"run": run.info.run_id, "child": child.info.run_id, "uri": run.info.artifact_uri}))
"""


def check_everything(plain: Any, logged: dict[str, str]) -> None:
    """What `EVERYTHING` logged is on the server, once."""
    import mlflow

    run = plain.get_run(logged["run"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "one"
    history = plain.get_metric_history(logged["run"], "loss")
    assert [(m.step, m.value) for m in history] == [(i, 1 / (i + 1)) for i in range(5)]
    assert [m.step for m in plain.get_metric_history(logged["run"], "numbered")] == [2]
    assert run.data.metrics["nan"] != run.data.metrics["nan"]
    assert run.data.metrics["asynchronous"] == 2.0
    assert run.data.params == {f"p{i}": str(i) for i in range(150)}
    assert run.data.tags["ünïcode"] == "\u2603\n"
    assert "gone" not in run.data.tags
    assert "mlplatform.id" not in run.data.tags
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/notes/a.txt") == "hello"
    assert mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/b.json") == {"a": 1}
    assert [d.dataset.name for d in run.inputs.dataset_inputs] == ["numbers"]
    child = plain.get_run(logged["child"])
    assert child.data.tags["mlflow.parentRunId"] == logged["run"]
    assert child.data.params == {"stage": "draft"}
    assert len(plain.search_runs([run.info.experiment_id])) == 2
