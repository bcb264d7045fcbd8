"""A retrieval pipeline: three strategies for the same questions, one run each, compared.

python examples/retrieval_strategies.py
"""

from __future__ import annotations

from collections.abc import Callable

from fake_model import FACTS, answer, overlap, ranked
from mlflow_platform.client import MLflowTracer, MLflowTracker
from mlflow_platform.client.pictures import Kpi, kpi_dashboard

#: A question, and a word that a right answer has.
QUESTIONS = {
    "What is an activity in PROV?": "time",
    "What does an agent bear in PROV?": "responsibility",
    "Which ontology is about people?": "FOAF",
    "Where does the property broader lead to in SKOS?": "general",
    "What describes documents?": "Dublin",
}
Found = list[tuple[float, str]]


def best(question: str) -> Found:
    """The three facts most like the question."""
    return ranked(question, FACTS)[:3]


def first(question: str) -> Found:
    """The first three facts that have a word of it, in the order they are kept."""
    return [(overlap(question, t), t) for t in FACTS if overlap(question, t)][:3]


def longest(question: str) -> Found:
    """The longest of those that have a word of it."""
    return sorted(((s, t) for s, t in ranked(question, FACTS) if s), key=lambda pair: -len(pair[1]))[:1]


def main(strategies: tuple[Callable[[str], Found], ...] = (first, longest, best)) -> None:
    tracker = MLflowTracker(experiment_name="examples/retrieval")
    tracer = MLflowTracer(tracker)
    scores: dict[str, float] = {}
    with tracker.start_run("compare strategies"):
        for strategy in strategies:
            with tracker.start_nested_run(strategy.__name__):
                tracker.log_params({"strategy": strategy.__name__, "questions": len(QUESTIONS)})
                right = sum(ask(tracer, strategy, question, word) for question, word in QUESTIONS.items())
                scores[strategy.__name__] = right / len(QUESTIONS)
                tracker.log_metrics({"accuracy": scores[strategy.__name__]})
        winner = max(scores, key=lambda name: scores[name])
        tracker.set_tags({"best_strategy": winner})
        tracker.log_metrics({"best_accuracy": scores[winner]})
        cards = [Kpi(f"accuracy of {name}", [value], target=0.8) for name, value in scores.items()]
        tracker.log_text_artifact(kpi_dashboard(cards, title="Retrieval strategies"), "dashboard.html")
    for name, value in scores.items():
        print(f"{name:<10}{value:>6.0%}")
    print(f"best: {winner}")


def ask(tracer: MLflowTracer, strategy: Callable[[str], Found], question: str, word: str) -> bool:
    """One question, as a trace; whether the answer is right."""
    with tracer.span("question", "CHAIN", inputs={"question": question}) as whole:
        with tracer.trace_retrieval(question, strategy=strategy.__name__) as retrieval:
            found = strategy(question)
            documents = [{"text": text, "score": score} for score, text in found]
            retrieval.found(documents)
            retrieval.context("\n".join(text for _, text in found))
        with tracer.trace_llm_call("fake-1", question) as call:
            said = answer(question, [text for _, text in found[:1]])
            call.answered(said, prompt_tokens=len(question.split()), completion_tokens=len(said.split()))
        with tracer.trace_quality_gates(subject=said) as gates:
            gates.gate("right", word in said, value=said, threshold=word)
        whole.set_outputs(said)
    return gates.passed


if __name__ == "__main__":
    main()
