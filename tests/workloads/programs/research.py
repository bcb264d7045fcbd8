"""W1: an agent that answers questions over ontologies, in DSPy, with a language model that is a fake."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import dspy

from fake_dspy import fake_lm
from mlflow_platform.client import ResearchTracker
from mlflow_platform.client.frameworks.dspy import configure_dspy

EXAMPLES = [
    dspy.Example(question="What is an activity in PROV?", answer="time").with_inputs("question"),
    dspy.Example(question="Which ontology is about people?", answer="FOAF").with_inputs("question"),
    dspy.Example(question="What is a unicorn?", answer="an animal").with_inputs("question"),
]


def right(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer in prediction.answer


configure_dspy()
dspy.configure(lm=fake_lm())
tracker = ResearchTracker(events="research.jsonl")
program = dspy.ChainOfThought("question -> answer")
Path("prov.ttl").write_text("@prefix prov: <http://www.w3.org/ns/prov#> .\n", "utf-8")
question = "What is an activity in PROV?"

with tracker.start_query_run(
    "data/prov.ttl",
    question,
    max_iterations=5,
    model="fake-1",
    query_type="definition",
    has_memory=True,
    seed=None,
    k=3,
) as run:
    predicted = program(question=question)
    # What is logged can be read while the run goes on.
    tailed = [json.loads(line)["event"] for line in Path("research.jsonl").read_text("utf-8").splitlines()]
    assert tailed == ["start_run", "log_params"], tailed
    tracker.log_outcome(iteration_count=2, converged=True, memories_retrieved=1)
    tracker.log_trajectory([{"thought": predicted.reasoning, "action": "answer"}])
    tracker.log_memory_pack([{"fact": "activities take time"}])
    tracker.log_ontology("prov.ttl")
    tracker.log_sparql("SELECT ?a WHERE { ?a a prov:Activity }")
    tracker.log_evidence([predicted.answer])

with tracker.start_run("evaluation") as evaluation:
    score = dspy.Evaluate(devset=EXAMPLES, metric=right, num_threads=1, display_progress=False)(program)

compiled = dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=1).compile(program, trainset=EXAMPLES)
print(
    json.dumps(
        {
            "run": run.run_id,
            "evaluation": evaluation.run_id,
            "answer": predicted.answer,
            "score": float(score.score),
            "demos": len(compiled.predictors()[0].demos),
            "failures": tracker.session.guard.failures,
        }
    )
)
sys.stdout.flush()
