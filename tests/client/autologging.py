"""Frameworks that log by themselves, and what they left on the server:
`python -m tests.client.autologging STACK NAME FRAMEWORK`, through the MLFLOW_TRACKING_URI it has."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from mlflow_platform.local import Stack
from tests.client.api_calls import Recorder
from tests.client.server_state import ServerState

#: A model as code, as MLflow wants LangChain's.
_CHAIN = """
import mlflow
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

prompt = ChatPromptTemplate.from_template("Where is {place}?")
chain = prompt | FakeListChatModel(responses=["Here.", "There."]) | StrOutputParser()
mlflow.models.set_model(chain)
"""


def sklearn() -> None:
    """A search over settings with its child runs, a model that is not searched for, and one that fails."""
    import mlflow
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    mlflow.sklearn.autolog()
    x = np.arange(60.0).reshape(30, 2)
    y = np.arange(30) % 3 > 0
    with mlflow.start_run(run_name="search"):
        GridSearchCV(LogisticRegression(max_iter=20), {"C": [0.1, 1.0]}, cv=2).fit(x, y)
    model = LogisticRegression().fit(x, y)
    assert model.score(x, y) >= 0  # logged after the training, to the same run
    try:
        LogisticRegression(C=-1.0).fit(x, y)
    except ValueError:
        return
    raise AssertionError("the training went well that was to fail")


def langchain() -> None:
    """A chain that is called, streamed, batched, fails, is logged and loaded."""
    import mlflow

    code = Path("chain.py").absolute()
    code.write_text(_CHAIN)
    mlflow.langchain.autolog()
    with mlflow.start_run(run_name="chain"):
        info = mlflow.langchain.log_model(str(code), name="chain", pip_requirements=[])
    chain = mlflow.langchain.load_model(info.model_uri)
    assert chain.invoke({"place": "it"}) == "Here."
    assert "".join(chain.stream({"place": "he"})) == "There."
    assert len(chain.batch([{"place": "she"}, {"place": "we"}], {"max_concurrency": 1})) == 2
    try:
        chain.invoke({"nothing": "asked"})
    except KeyError:
        return
    raise AssertionError("the chain went well that was to fail")


def dspy() -> None:
    """A program that is called, evaluated, compiled, logged and loaded."""
    import dspy
    import mlflow
    from dspy.utils.dummies import DummyLM

    mlflow.dspy.autolog(log_compiles=True, log_evals=True, log_traces_from_compile=True)
    answers = [{"reasoning": "It is known.", "answer": "here"}] * 50
    dspy.configure(lm=DummyLM(answers))
    program = dspy.ChainOfThought("question -> answer")
    assert program(question="where?").answer == "here"
    examples = [dspy.Example(question=f"where is {i}?", answer="here").with_inputs("question") for i in "ab"]

    def right(example: dspy.Example, given: dspy.Prediction, trace: object = None) -> bool:
        return bool(example.answer == given.answer)

    assert dspy.Evaluate(devset=examples, metric=right, num_threads=1, display_progress=False)(program).score
    optimised = dspy.BootstrapFewShot(metric=right, max_labeled_demos=1).compile(program, trainset=examples)
    with mlflow.start_run(run_name="program"):
        info = mlflow.dspy.log_model(optimised, name="program", pip_requirements=[])
    assert mlflow.dspy.load_model(info.model_uri)(question="where?").answer == "here"


def pyfunc() -> None:
    """A model of one's own, and what belongs to it."""
    import mlflow
    import mlflow.pyfunc

    class Double(mlflow.pyfunc.PythonModel):
        def predict(self, context: object, model_input: list[float]) -> list[float]:
            return [2 * x for x in model_input]

    with mlflow.start_run(run_name="double"):
        info = mlflow.pyfunc.log_model(
            name="double", python_model=Double(), pip_requirements=[], params={"depth": 3}
        )
        mlflow.log_metric("accuracy", 0.9, model_id=info.model_id)
        mlflow.set_logged_model_tags(info.model_id, {"stage": "draft"})
    assert mlflow.pyfunc.load_model(info.model_uri).predict([1.0, 2.0]) == [2.0, 4.0]


def main(data: str, name: str, framework: str) -> None:
    import mlflow
    from mlflow.utils.autologging_utils import client

    with tempfile.TemporaryDirectory() as folder:
        # MLflow looks for what it saves, and DSPy keeps a cache, where the program is.
        os.chdir(folder)
        os.environ["DSPY_CACHEDIR"] = folder
        state = ServerState(Stack(Path(data)).endpoints())
        Recorder(state, Path(folder)).create_experiment(name)
        mlflow.set_experiment(name)
        {"sklearn": sklearn, "langchain": langchain, "dspy": dspy, "pyfunc": pyfunc}[framework]()
        # What autologging sent from threads that nobody waits for where a training fails.
        client._AUTOLOGGING_QUEUEING_CLIENT_THREAD_POOL.shutdown(wait=True)
        mlflow.flush_async_logging()
        print(json.dumps({"call": framework, "changes": state.changes()}).replace(folder, "<folder>"))
        os.chdir("/")


if __name__ == "__main__":
    main(*sys.argv[1:])
