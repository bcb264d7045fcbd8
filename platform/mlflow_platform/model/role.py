"""MLflowRole: permissions under a name, and the users who have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from mlflow_platform.model.base import Document, Mistake, Model, ObjectSpec, repeated
from mlflow_platform.model.fields import Username, Workspace

#: mlflow/server/auth/db/models.py: roles.name, role_permissions.resource_pattern varchar(255) and
#: roles.description varchar(1024).
RoleName = Annotated[str, StringConstraints(min_length=1, max_length=255)]
RoleDescription = Annotated[str, StringConstraints(max_length=1024)]
#: mlflow/server/auth/sqlalchemy_store.py: `_SYNTHETIC_ROLE_PREFIX`.
RESERVED_PREFIX = "__user_"
#: mlflow/server/auth/permissions.py: the types whose grain in `TYPE` is WILDCARD_ONLY.
WILDCARD_ONLY = frozenset(
    {
        "workspace",
        "run",
        "trace",
        "assessment",
        "logged_model",
        "review_queue",
        "registered_model_version",
        "prompt_version",
        "scorer_version",
        "mcp_server_version",
    }
)


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
        "mcp_server",
        "workspace",
        "run",
        "trace",
        "assessment",
        "logged_model",
        "review_queue",
        "registered_model_version",
        "prompt_version",
        "scorer_version",
        "mcp_server_version",
    ] = Field(
        description="MLflow's resource type; experiment, registered_model, prompt, scorer and mcp_server "
        "take names, gateway types take ids, the others only `*`."
    )
    resource: Annotated[str, StringConstraints(min_length=1, max_length=255)] = Field(
        "*",
        description="Name of the object, or `*` for all of the type. A scorer: `<experiment>/<scorer>`, "
        "with a `/` in the scorer's name as `%2F`. `#<id>` is an experiment by its id, `#<name>` a model or "
        "prompt whether it exists or not.",
    )
    permission: Literal["READ", "USE", "EDIT", "MANAGE", "DENY"] = Field(
        description="MLflow permission (mlflow/server/auth/permissions.py)."
    )

    def mistakes(self) -> Iterator[Mistake]:
        """What MLflow would refuse, or keep and never apply (mlflow/server/auth/permissions.py)."""
        everything = self.resource == "*"
        if self.resourceType in WILDCARD_ONLY and not everything:
            what = f"MLflow gives permissions on {self.resourceType} for all of them only"
            yield Mistake(("resource",), what, "write resource: '*', or leave it out")
        if self.resourceType == "workspace" and self.permission not in ("USE", "MANAGE"):
            what = f"{self.permission} cannot be given on a workspace"
            yield Mistake(("permission",), what, "use USE (a member) or MANAGE (an administrator of it)")
        if self.resourceType == "scorer" and not everything and "/" not in self.resource:
            what = f"{self.resource!r} does not say of which experiment the scorer is"
            yield Mistake(("resource",), what, "write <experiment>/<scorer>")


class MLflowRoleSpec(ObjectSpec):
    """What a role should be. Permissions and members that are not declared here are removed."""

    name: RoleName | None = Field(None, description="Name of the role. Default: metadata.name.")
    workspace: Workspace = "default"
    description: RoleDescription | None = Field(None, description="What the role is for.")
    permissions: Annotated[list[RolePermission], Field(max_length=500)] = Field(
        default_factory=list, description="What members may do."
    )
    members: Annotated[list[Username], Field(max_length=1000)] = Field(
        default_factory=list, description="User names."
    )

    def mistakes(self, default_name: str) -> Iterator[Mistake]:
        if (self.name or default_name).startswith(RESERVED_PREFIX):
            what = f"MLflow reserves role names that begin with {RESERVED_PREFIX!r}"
            yield Mistake(("name",), what, "choose another name")
        seen: set[tuple[str, str]] = set()
        for number, item in enumerate(self.permissions):
            for mistake in item.mistakes():
                yield mistake.under("permissions", number)
            place = (item.resourceType, item.resource)
            if place in seen:
                what = f"a second permission on {item.resourceType} {item.resource!r}"
                yield Mistake(("permissions", number), what, "keep one of them")
            seen.add(place)
        yield from repeated("members", self.members, "member")


class MLflowRole(Document):
    """A role of a tracking server with basic authentication."""

    plural: ClassVar[str] = "mlflowroles"
    kind: Literal["MLflowRole"] = "MLflowRole"
    spec: MLflowRoleSpec = Field(default_factory=MLflowRoleSpec)
