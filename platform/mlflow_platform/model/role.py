"""MLflowRole: permissions under a name, and the users who have them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mlflow_platform.model.base import Document, Model, Name, ObjectSpec
from mlflow_platform.model.fields import Description, Username, Workspace


class RolePermission(Model):
    """A permission on one object by its name, or on all of a type with `*`."""

    resourceType: Literal[
        "experiment",
        "registered_model",
        "prompt",
        "scorer",
        "gateway_secret",
        "gateway_endpoint",
        "gateway_model_definition",
        "workspace",
        "run",
        "trace",
        "assessment",
        "logged_model",
        "review_queue",
    ] = Field(
        description="MLflow's resource type; experiment, registered_model, prompt and scorer take names."
    )
    resource: Name = Field("*", description="Name of the object (not its id), or `*` for all of the type.")
    permission: Literal["READ", "USE", "EDIT", "MANAGE", "DENY"] = Field(
        description="MLflow permission (mlflow/server/auth/permissions.py)."
    )


class MLflowRoleSpec(ObjectSpec):
    """What a role should be. Permissions and members that are not declared here are removed."""

    workspace: Workspace = "default"
    description: Description | None = Field(None, description="What the role is for.")
    permissions: Annotated[list[RolePermission], Field(max_length=500)] = Field(
        default_factory=list, description="What members may do."
    )
    members: Annotated[list[Username], Field(max_length=1000)] = Field(
        default_factory=list, description="User names."
    )


class MLflowRole(Document):
    """A role of a tracking server with basic authentication."""

    plural: ClassVar[str] = "mlflowroles"
    kind: Literal["MLflowRole"] = "MLflowRole"
    spec: MLflowRoleSpec = Field(default_factory=MLflowRoleSpec)
