"""`ResearchTracker`: runs of agents that answer questions over ontologies."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_platform.client.run import NO_RUN, Run
from mlflow_platform.client.tracker import MLflowTracker

DEFAULT_EXPERIMENT = "ontology-queries"
#: mlflow/utils/validation.py: MAX_PARAM_VAL_LENGTH
_LONGEST_PARAM = 6000


class ResearchTracker(MLflowTracker):
    """A tracker whose runs are questions.

    `tracking_uri` may be a file beside the data, as in `sqlite:///data/mlflow.db`. The experiment is the
    argument's, else that of `MLFLOW_EXPERIMENT_NAME`, else `ontology-queries`.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment_name: str | None = None,
        *,
        tags: Mapping[str, Any] | None = None,
        events: str | os.PathLike[str] | None = None,
    ) -> None:
        name = experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
        super().__init__(tracking_uri=tracking_uri, experiment_name=name, tags=tags, events=events)

    def start_query_run(
        self,
        ontology: str,
        query: str,
        *,
        max_iterations: int | None = None,
        model: str | None = None,
        query_type: str | None = None,
        has_memory: bool = False,
        run_name: str | None = None,
        **params: Any,
    ) -> Run:
        """The run of one question, a context manager, with its params and tags. Those that are None are left
        out; a longer question than MLflow keeps is cut, and whole in `query.txt`."""
        if self._idle:
            return NO_RUN
        ontology_name = Path(ontology).stem or ontology
        about = {
            "ontology_name": ontology_name,
            "query_type": query_type,
            "has_memory": str(has_memory).lower(),
        }
        asked = {
            "ontology": ontology,
            "query": query,
            "max_iterations": max_iterations,
            "model": model,
            **params,
        }
        return _QueryRun(self, run_name or _name(ontology_name, query), {**self.tags, **about}, asked)

    def log_outcome(
        self,
        *,
        iteration_count: int,
        converged: bool,
        memories_retrieved: int = 0,
        **metrics: float | None,
    ) -> None:
        """How it ended; `converged` becomes 0 or 1."""
        self.log_metrics(
            {
                "iteration_count": iteration_count,
                "converged": int(converged),
                "memories_retrieved": memories_retrieved,
                **metrics,
            }
        )

    def log_trajectory(self, steps: Sequence[Any], name: str = "trajectory") -> None:
        """`trajectories/<name>.json`: what the agent did, step by step."""
        self.log_dict_artifact(list(steps), f"trajectories/{name}.json")

    def log_memory_pack(self, memories: Sequence[Any], name: str = "memory_pack") -> None:
        """`memories/<name>.json`: what it was reminded of."""
        self.log_dict_artifact(list(memories), f"memories/{name}.json")

    def log_ontology(self, path: str | Path) -> None:
        """`ontologies/<file>`: the ontology itself."""
        self.log_artifact(path, "ontologies")

    def log_sparql(self, query: str) -> None:
        """`query.sparql`: the query that it made."""
        self.log_text_artifact(query, "query.sparql")

    def log_evidence(self, evidence: Any) -> None:
        """`evidence.json`: what the answer rests on."""
        self.log_dict_artifact(evidence, "evidence.json")


class _QueryRun(Run):
    def __init__(
        self, tracker: MLflowTracker, name: str, tags: Mapping[str, Any], asked: Mapping[str, Any]
    ) -> None:
        super().__init__(tracker, name, tags)
        self._asked = asked

    def open(self, *, attach: bool) -> None:
        super().open(attach=attach)
        query = str(self._asked["query"])
        self.log_params({**self._asked, "query": query[:_LONGEST_PARAM]})
        if len(query) > _LONGEST_PARAM:
            self.log_text_artifact(query, "query.txt")


def _name(ontology: str, query: str) -> str:
    """The same question of one ontology has the same name."""
    digest = hashlib.sha256(query.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{ontology}-{digest[:8]}"
