"""A deployment on Kubernetes: phases, waiting, checks before and a test after."""

from mlflow_platform.deploy.deployment import Deployment, Outcome
from mlflow_platform.deploy.removal import undeploy

__all__ = ["Deployment", "Outcome", "undeploy"]
