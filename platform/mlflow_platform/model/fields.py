"""Types of fields that several kinds share, with MLflow's limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from mlflow_platform.model.base import Model, Name, ResourceName

#: mlflow/utils/validation.py: MAX_MODEL_REGISTRY_TAG_KEY_LENGTH and MAX_EXPERIMENT_TAG_KEY_LENGTH are 250;
#: `_VALID_PARAM_AND_METRIC_NAMES` allows exactly these characters.
TagKey = Annotated[str, StringConstraints(min_length=1, max_length=250, pattern=r"^[/\w.\- :]+$")]
#: registered_model_tags.value is varchar(5000), the smallest of the tag tables.
TagValue = Annotated[str, StringConstraints(max_length=5000)]
Tags = Annotated[dict[TagKey, TagValue], Field(max_length=64)]
#: registered_models.description and model_versions.description are varchar(5000).
Description = Annotated[str, StringConstraints(max_length=5000)]
#: mlflow/utils/validation.py: `_REGISTERED_MODEL_ALIAS_REGEX`; `latest` and `v<number>` are reserved.
AliasName = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_\-]+$")]
#: Our own stable name of a version inside a document.
VersionKey = Annotated[
    str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][-_.A-Za-z0-9]*$")
]
#: mlflow/store/workspace: 2 to 63 characters.
WorkspaceName = Annotated[
    str, StringConstraints(min_length=2, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
]
Workspace = Annotated[
    WorkspaceName, Field(description="MLflow workspace of the object. Workspaces are off by default.")
]
Username = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class Grant(Model):
    """One user's permission on this object, given directly and not through a role."""

    user: Username = Field(description="MLflow user name.")
    permission: Literal["READ", "USE", "EDIT", "MANAGE", "DENY"] = Field(
        description="MLflow permission (mlflow/server/auth/permissions.py)."
    )


Grants = Annotated[list[Grant], Field(max_length=200, description="Direct permissions of users.")]

__all__ = [
    "AliasName",
    "Description",
    "Grant",
    "Grants",
    "Name",
    "ResourceName",
    "TagKey",
    "TagValue",
    "Tags",
    "Username",
    "VersionKey",
    "Workspace",
    "WorkspaceName",
]
