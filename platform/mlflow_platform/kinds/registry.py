"""Every kind by its name."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow_platform.kinds.base import Kind
from mlflow_platform.kinds.experiment import Experiment
from mlflow_platform.kinds.experiment_set import ExperimentSet
from mlflow_platform.kinds.prompt import Prompt
from mlflow_platform.kinds.registered_model import RegisteredModel
from mlflow_platform.kinds.role import MLflowRole
from mlflow_platform.kinds.user import MLflowUser
from mlflow_platform.kinds.webhook import Webhook
from mlflow_platform.kinds.workspace import Workspace

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Workspace(),
        MLflowUser(),
        Experiment(),
        ExperimentSet(),
        RegisteredModel(),
        Prompt(),
        MLflowRole(),
        Webhook(),
    )
}
