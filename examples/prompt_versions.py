"""Versions of a prompt, and which is better: an A/B test with a p-value.

python examples/prompt_versions.py
"""

from __future__ import annotations

import mlflow

from fake_model import answer
from mlflow_platform.client import MLflowTracker
from mlflow_platform.client.improvement import Samples, improvement, significance

NAME = "examples-question"
#: The second tells the model which ontology is meant; the fake model reads words, so that it helps.
TEMPLATES = ("{{ question }}", "{{ question }} In {{ ontology }}.")
#: Question, ontology, and a word that a right answer has.
QUESTIONS = [
    ("What is an agent?", "PROV", "responsibility"),
    ("What is a person?", "FOAF", "kind of agent"),
    ("What is an activity?", "PROV", "time"),
    ("Which property leads on?", "SKOS", "general"),
    ("What does a property join?", "FOAF", "knows"),
    ("What is it about?", "FOAF", "people"),
    ("What is it about?", "SKOS", "ordered"),
    ("What is it about?", "PROV", "come from"),
]


def main() -> None:
    tracker = MLflowTracker(experiment_name="examples/prompts")
    tracker.session.need()
    versions = [version_of(template) for template in TEMPLATES]
    samples = []
    with tracker.start_run("A/B test of prompts"):
        for version in versions:
            prompt = mlflow.genai.load_prompt(f"prompts:/{NAME}/{version}")
            with tracker.start_nested_run(f"version {version}", tags={"prompt_version": version}):
                asked = [
                    (
                        prompt.format(question=q, ontology=o)
                        if "ontology" in prompt.variables
                        else prompt.format(question=q)
                    )
                    for q, o, _ in QUESTIONS
                ]
                right = [word in answer(text) for text, (_, _, word) in zip(asked, QUESTIONS, strict=True)]
                samples.append(Samples(success=right))
                tracker.log_metrics(samples[-1].metrics())
        gained = improvement(samples[0].metrics(), samples[1].metrics())
        found = significance(samples[0], samples[1], paired=True)
        tracker.log_metrics({**gained, "statistical_significance": found.p_value})
        better = gained["success_rate_improvement"] > 0
        winner = versions[1] if better else versions[0]
        tracker.set_tags({"significance_test": found.test, "better_version": winner})
    mlflow.genai.set_prompt_alias(NAME, "candidate", winner)
    for version, sample in zip(versions, samples, strict=True):
        print(f"version {version}: {sample.metrics()['success_rate']:.0%} right")
    print(f"{found.test}: p = {found.p_value:.3f}; candidate: version {winner}")


def version_of(template: str) -> int:
    """The version that has this text: registering it again would make another."""
    known = mlflow.genai.search_prompts(f"name = '{NAME}'")
    if known:
        for version in mlflow.MlflowClient().search_prompt_versions(NAME):
            if version.template == template:
                return int(version.version)
    return int(mlflow.genai.register_prompt(NAME, template).version)


if __name__ == "__main__":
    main()
