"""W3: a question-answering program is trained and logged as a model."""

from __future__ import annotations

import json
import sys

import dspy

from fake_dspy import fake_lm
from mlflow_platform.client import MLflowTracker
from mlflow_platform.client.frameworks.dspy import load_program, log_program
from mlflow_platform.client.training import local_inference, log_sample_predictions, training_run_name

dspy.configure(lm=fake_lm())
QUESTIONS = ["Which ontology is about people?", "What does the property broader do?", "What is a unicorn?"]
TRUTH = ["FOAF", "SKOS", "an animal"]

tracker = MLflowTracker()
program = dspy.ChainOfThought("question -> answer")
with tracker.start_run(training_run_name("llama/3 8b", "lr=0.01")) as run:
    tracker.log_params(local_inference("llama-3-8b", model_format="gguf"))
    for epoch in range(3):
        tracker.log_metrics({"accuracy": epoch / 3, "loss": 1 / (epoch + 1)}, step=epoch)
    predictions = [program(question=q).answer for q in QUESTIONS]
    log_sample_predictions(tracker, QUESTIONS, predictions, TRUTH)
    uri = log_program(tracker.session, program, "qa", pip_requirements=[])
same = None
if "load" in sys.argv:
    loaded = load_program(tracker.session, uri)
    same = [loaded(question=q).answer for q in QUESTIONS] == predictions
with tracker.start_run(training_run_name("llama/3 8b", "lr=0.01")):
    pass
print(json.dumps({"run": run.run_id, "uri": uri, "same": same, "predictions": predictions}))
