"""DSPy: autologging in one call, and programs as MLflow models."""

from __future__ import annotations

from typing import Any

from mlflow_platform.client.config import MLflowConfig
from mlflow_platform.client.session import Session


def configure_dspy(
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    *,
    config: MLflowConfig | None = None,
    traces_from_compile: bool = False,
) -> Session:
    """Log what DSPy does: traces of calls and of evaluations, records of compilations and evaluations.

    Traces of compilations only on request: one compilation makes hundreds of calls. With
    `MLFLOW_ENABLE_TRACING=false` there are records only, with `MLFLOW_ENABLE_TRACKING=false` traces only.
    Never raises; returns the session, for trackers and tracers that are to log to the same place.
    """
    session = Session(config, tracking_uri=tracking_uri, experiment_name=experiment_name)
    session.guard.call("DSPy", _configure, session, traces_from_compile)
    return session


def _configure(session: Session, traces_from_compile: bool) -> None:
    if session.open() is None:
        return
    import mlflow.dspy

    mlflow.dspy.autolog(
        log_traces=session.tracing,
        log_traces_from_eval=session.tracing,
        log_traces_from_compile=session.tracing and traces_from_compile,
        log_compiles=session.tracking,
        log_evals=session.tracking,
    )


def log_program(session: Session, program: Any, name: str, **more: Any) -> str | None:
    """Log a DSPy program as a model, in the active run if there is one; its URI, or None where that fails.

    `more` goes to `mlflow.dspy.log_model` (`input_example`, `pip_requirements`, ...).
    """

    def log() -> str | None:
        if session.open() is None:
            return None
        import mlflow.dspy

        return str(mlflow.dspy.log_model(program, name=name, **more).model_uri)

    return session.guard.call("log_program", log)


def load_program(session: Session, uri: str) -> Any:
    """A program as it was logged. Raises what MLflow raises. Like every model of MLflow's it may hold
    pickles, which run what they like: load what you trust."""
    session.need()
    import mlflow.dspy

    return mlflow.dspy.load_model(uri)
