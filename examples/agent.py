"""An agent of LangGraph that looks facts up and answers, logged by a callback handler.

python examples/agent.py "What is an activity in PROV?"
"""

from __future__ import annotations

import sys
from typing import TypedDict

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from fake_langchain import FactRetriever, FakeChatModel
from mlflow_platform.client import MLflowTracker
from mlflow_platform.client.frameworks.langchain import MLflowCallbackHandler
from mlflow_platform.client.pictures import Link, agents


class State(TypedDict, total=False):
    question: str
    documents: list[str]
    answer: str


def agent(k: int = 3) -> CompiledStateGraph:
    """Two nodes: one retrieves `k` facts, the other writes an answer from them."""
    retriever, model = FactRetriever(k=k), FakeChatModel()

    def retrieve(state: State, config: RunnableConfig) -> State:
        return {"documents": [d.page_content for d in retriever.invoke(state["question"], config)]}

    def write(state: State, config: RunnableConfig) -> State:
        context = SystemMessage("\n".join(f"- {d}" for d in state["documents"]))
        reply = model.invoke([context, HumanMessage(state["question"])], config)
        return {"answer": str(reply.content)}

    graph = StateGraph(State)
    graph.add_node("retrieve", retrieve)
    graph.add_node("write", write)
    graph.add_edge(START, "retrieve")
    graph.add_edge("retrieve", "write")
    graph.add_edge("write", END)
    return graph.compile()


def main(questions: list[str]) -> None:
    tracker = MLflowTracker(experiment_name="examples/agent")
    handler = MLflowCallbackHandler(tracker, agent={"tier": 1, "brand": "aurora", "kpi": "answered"})
    with tracker.start_run("agent") as run:
        tracker.log_params({"k": 3, "model": "fake-1", "temperature": 0.0})
        answers = [agent().invoke({"question": q}, {"callbacks": [handler]})["answer"] for q in questions]
        known = [a for a in answers if a != "I do not know."]
        tracker.log_metrics({"answered": len(known) / len(answers)})
        tracker.log_dict_artifact(dict(zip(questions, answers, strict=True)), "answers.json")
        picture = agents([Link("retrieve", "write", 1.0, "facts")], {"retrieve": 1, "write": 2})
        tracker.log_text_artifact(picture, "pictures/agents.svg")
    for question, answer in zip(questions, answers, strict=True):
        print(f"{question} {answer}")
    print(f"run {run.run_id}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["What is an activity in PROV?", "What is an ontology about people?", "Why?"])
