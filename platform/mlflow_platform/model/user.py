"""MLflowUser: a login of MLflow's basic authentication."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mlflow_platform.model.base import Document, ObjectSpec, SecretReference
from mlflow_platform.model.fields import Username


class MLflowUserSpec(ObjectSpec):
    """What a user should be."""

    name: Username | None = Field(None, description="User name. Default: metadata.name.")
    admin: bool = Field(False, description="Whether the user may do everything.")
    passwordSecretRef: SecretReference | None = Field(
        None,
        description="Where the password is (MLflow asks for at least 12 characters). Changing the secret "
        "changes the password. May be left out for a user that exists already.",
    )


class MLflowUser(Document):
    """A user of a tracking server with basic authentication."""

    plural: ClassVar[str] = "mlflowusers"
    kind: Literal["MLflowUser"] = "MLflowUser"
    spec: MLflowUserSpec = Field(default_factory=MLflowUserSpec)
