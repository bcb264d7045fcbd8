"""Optuna: a study as a parent run, each trial as a child, and the best configuration chosen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from mlflow_platform.client.run import Run
from mlflow_platform.client.tracker import MLflowTracker


class StudyCallback:
    """A callback of `study.optimize`, within `track_study`. Trials may run in several threads."""

    def __init__(self, tracker: MLflowTracker, parent: Run) -> None:
        self._tracker = tracker
        self._parent = parent

    def __call__(self, study: Any, trial: Any) -> None:
        self._tracker.session.guard.call("trial", self._log, study, trial)

    def _log(self, study: Any, trial: Any) -> None:
        state = trial.state.name
        if not self._parent.run_id:
            return
        run = self._tracker.start_run(
            f"trial-{trial.number}", tags={"trial": trial.number, "trial_state": state.lower()}
        )
        run.parent = self._parent
        run.open(attach=False)
        run.log_params(trial.params)
        for step, value in sorted(trial.intermediate_values.items()):
            run.log_metrics({"intermediate_value": value}, step)
        for name, value in _values(study, trial).items():
            run.log_metrics({name: value})
            self._parent.log_metrics({name: value}, trial.number)
        if trial.duration is not None:
            run.log_metrics({"duration_seconds": trial.duration.total_seconds()})
        run.set_tags({f"trial.{k}": v for k, v in trial.user_attrs.items()})
        run.end({"COMPLETE": "FINISHED", "FAIL": "FAILED"}.get(state, "KILLED"))


@contextlib.contextmanager
def track_study(tracker: MLflowTracker, study: Any) -> Iterator[StudyCallback]:
    """The parent run of a study; pass what it yields to `study.optimize(..., callbacks=[it])`.

    At the end the parent has the best trial's values as metrics `best_<name>`, its params as params
    `best_<name>`, and `best_configuration.json`; of several objectives, the front's trials are in
    `best_configuration.json` and nothing is chosen.
    """
    with tracker.start_run(study.study_name, tags={"study": study.study_name}) as parent:
        parent.log_params(
            {
                "directions": ",".join(d.name.lower() for d in study.directions),
                "sampler": type(study.sampler).__name__,
                "pruner": type(study.pruner).__name__,
            }
        )
        try:
            yield StudyCallback(tracker, parent)
        finally:
            tracker.session.guard.call("best trial", _log_best, parent, study)


def best_configurations(study: Any) -> list[dict[str, Any]]:
    """The best trial's number, values and params; of several objectives, those of the Pareto front; none
    where no trial has completed."""
    return [
        {"trial": t.number, "values": _values(study, t), "params": dict(t.params)} for t in study.best_trials
    ]


def _log_best(parent: Run, study: Any) -> None:
    best = best_configurations(study)
    parent.log_metrics({"trials": len(study.trials)})
    parent.log_dict_artifact(best, "best_configuration.json")
    if len(study.directions) == 1 and best:
        parent.log_params({f"best_{k}": v for k, v in best[0]["params"].items()})
        parent.log_metrics({f"best_{k}": v for k, v in best[0]["values"].items()})
        parent.set_tags({"best_trial": best[0]["trial"]})


def _values(study: Any, trial: Any) -> dict[str, float]:
    """A trial's values by the study's metric names, else `value`, or `value_0`, `value_1`, ...; none where it
    has not completed."""
    values = trial.values or []
    names = study.metric_names or (
        ["value"] if len(values) == 1 else [f"value_{i}" for i in range(len(values))]
    )
    return dict(zip(names, values, strict=False))
