"""W4: an agent of LangGraph, a study of Optuna, versions of an agent, and pictures."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

import optuna
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from fake_langchain import FactRetriever, FakeChatModel
from mlflow_platform.client import AgentRegistry, AgentSettings, MLflowTracker
from mlflow_platform.client.frameworks.langchain import MLflowCallbackHandler
from mlflow_platform.client.frameworks.optuna import track_study
from mlflow_platform.client.pictures import Kpi, Link, agents, causal_chain, kpi_dashboard


class State(TypedDict, total=False):
    question: str
    documents: list[str]
    answer: str


retriever, model = FactRetriever(k=2), FakeChatModel(temperature=0.1)


def retrieve(state: State, config: RunnableConfig) -> State:
    return {"documents": [d.page_content for d in retriever.invoke(state["question"], config)]}


def write(state: State, config: RunnableConfig) -> State:
    context = SystemMessage("\n".join(f"- {d}" for d in state["documents"]))
    return {"answer": str(model.invoke([context, HumanMessage(state["question"])], config).content)}


def fail(state: State) -> State:
    raise RuntimeError("a node that fails")


def graph(*nodes: Any) -> Any:
    built = StateGraph(State)
    names = [START, *(node.__name__ for node in nodes), END]
    for node in nodes:
        built.add_node(node.__name__, node)
    for before, after in pairwise(names):
        built.add_edge(before, after)
    return built.compile()


Path("agent.yaml").write_text(
    "mlflow_experiment: analytics\nlog_prompts: false\nlog_artifacts: true\nmodel: fake-1\n", "utf-8"
)
settings = AgentSettings.load("agent.yaml")
tracker = MLflowTracker()
about = {"tier": 2, "brand": "aurora", "kpi": "revenue"}
question = "What is an activity in PROV?"
agent = graph(retrieve, write)

with tracker.start_run("open") as run:
    tracker.log_params({"temperature": 0.1, "max_tokens": 100, "model_version": settings.own["model"]})
    handler = MLflowCallbackHandler(tracker, agent=about)
    for _ in range(2):
        state = agent.invoke({"question": question}, {"callbacks": [handler]})
    plain = agent.invoke({"question": question})
    assert state == plain
    tracker.log_metrics({"causal_confidence": 0.8, "gap_score": 0.2, "drift_magnitude": 0.05})
    pictures = {
        "causal_chain.svg": causal_chain([Link("price", "orders", 0.8), Link("orders", "revenue", 0.9)]),
        "agents.svg": agents([Link("planner", "writer")], {"planner": 1, "writer": 2}),
        "kpis.html": kpi_dashboard([Kpi("gap_score", [0.4, 0.2], target=0.3, lower_is_better=True)]),
    }
    for name, picture in pictures.items():
        tracker.log_text_artifact(picture, f"pictures/{name}")

with tracker.start_run("hidden") as hidden:
    quiet = MLflowCallbackHandler(tracker, agent=about, log_prompts=settings.log_prompts)
    agent.invoke({"question": question}, {"callbacks": [quiet]})
    try:
        graph(retrieve, fail).invoke({"question": question}, {"callbacks": [quiet]})
    except RuntimeError as error:
        failed = str(error)

optuna.logging.set_verbosity(optuna.logging.WARNING)


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -3, 3)
    trial.report(abs(x), 0)
    if trial.number == 3:
        raise optuna.TrialPruned
    if trial.number == 4:
        raise ValueError("a trial that fails")
    return (x - 1) ** 2


study = optuna.create_study(study_name="tune", sampler=optuna.samplers.TPESampler(seed=7))
with track_study(tracker, study) as callback:
    study.optimize(objective, n_trials=8, n_jobs=2, callbacks=[callback], catch=(ValueError,))

registry = AgentRegistry(tracker.session)
name = f"agent-{run.run_id}"
first = registry.register(name, {"temperature": 0.1, "tools": ["search"]})
second = registry.register(name, {"temperature": 0.7, "tools": ["search"]})
again = registry.register(name, {"tools": ["search"], "temperature": 0.1})
third = registry.register(name, {"temperature": 0.9, "tools": []})
for version in (first, second, third):
    registry.deploy(name, version, reason=f"release {version}")
stations = [registry.deployed(name)]
for _ in range(2):
    registry.rollback(name, reason="worse")
    stations.append(registry.deployed(name))
print(
    json.dumps(
        {
            "open": run.run_id,
            "hidden": hidden.run_id,
            "failed": failed,
            "answer": state["answer"],
            "best": [study.best_trial.number, study.best_value, study.best_params["x"]],
            "versions": [first, second, again, third],
            "stations": stations,
            "configuration": registry.configuration(name),
            "history": [[e.version, e.reason, e.rollback] for e in registry.history(name)],
            "failures": tracker.session.guard.failures,
        }
    )
)
