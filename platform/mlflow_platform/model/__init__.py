"""The documents as pydantic models; the CRDs, the JSON Schema and the reference page come from them."""

from mlflow_platform.model.backup_schedule import BackupSchedule
from mlflow_platform.model.base import Document
from mlflow_platform.model.experiment import Experiment
from mlflow_platform.model.experiment_set import ExperimentSet
from mlflow_platform.model.prompt import Prompt
from mlflow_platform.model.registered_model import RegisteredModel
from mlflow_platform.model.retention_policy import RetentionPolicy
from mlflow_platform.model.role import MLflowRole
from mlflow_platform.model.tracking_server import TrackingServer
from mlflow_platform.model.user import MLflowUser
from mlflow_platform.model.webhook import Webhook
from mlflow_platform.model.workspace import Workspace

#: Every kind of document by its name, in the order of the reference page.
DOCUMENTS: dict[str, type[Document]] = {
    "TrackingServer": TrackingServer,
    "Workspace": Workspace,
    "MLflowUser": MLflowUser,
    "MLflowRole": MLflowRole,
    "Experiment": Experiment,
    "ExperimentSet": ExperimentSet,
    "RegisteredModel": RegisteredModel,
    "Prompt": Prompt,
    "Webhook": Webhook,
    "RetentionPolicy": RetentionPolicy,
    "BackupSchedule": BackupSchedule,
}

__all__ = ["DOCUMENTS", "Document", *DOCUMENTS]
