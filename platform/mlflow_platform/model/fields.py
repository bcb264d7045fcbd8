"""Types of fields that several kinds share, with MLflow's limits."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from mlflow_platform.model.base import Mistake, Model, Name, ResourceName, refuse
from mlflow_platform.model.nearest import suggestion

#: Tags that are not the user's to declare: the engine's marks, and what MLflow writes for itself
#: (mlflow/utils/mlflow_tags.py; those of prompts in mlflow/prompt/constants.py).
RESERVED_TAG_PREFIXES = ("mlplatform.io/", "mlflow.", "_mlflow_")
_INSTEAD = {"mlflow.note.content": "write the field description instead"}


def unlike_a_path(name: str) -> bool:
    """Whether MLflow refuses a name because, as a path, it would mean another one.

    mlflow/utils/validation.py: `path_not_unique`.
    """
    normal = posixpath.normpath(name)
    return normal != name or normal == "." or normal.startswith(("..", "/"))


def _tag_key(key: str) -> str:
    if key.startswith(RESERVED_TAG_PREFIXES):
        whose = "the platform" if key.startswith(RESERVED_TAG_PREFIXES[0]) else "MLflow"
        raise refuse(f"the tag is reserved for {whose}", _INSTEAD.get(key, "use another key"))
    if unlike_a_path(key):
        remedy = "use no slash at an end, no // and no . or .. between slashes"
        raise refuse("MLflow takes no tag key that would be another path", remedy)
    return key


def _alias(name: str) -> str:
    # mlflow/utils/validation.py: _validate_model_alias_name_reserved
    if name.lower() == "latest" or re.fullmatch(r"[vV]\d+", name):
        what = "MLflow reserves the aliases latest and v<number>, which always mean what they say"
        raise refuse(what, "use another alias, such as production")
    return name


def _username(name: str) -> str:
    if ":" in name:  # RFC 7617, section 2: the user name ends at the first colon
        raise refuse("a user whose name holds a colon could never log in", "use a name without it")
    return name


#: mlflow/utils/validation.py: MAX_MODEL_REGISTRY_TAG_KEY_LENGTH and MAX_EXPERIMENT_TAG_KEY_LENGTH are 250;
#: `validate_param_and_metric_name` allows exactly these characters, with Python's `\w`. That is Unicode's
#: letters and digits; `\w` itself would be ASCII to kube-apiserver, and to pydantic hold marks, too.
TagKey = Annotated[
    str,
    StringConstraints(min_length=1, max_length=250, pattern=r"^[/\p{L}\p{N}_.\- :]+$"),
    AfterValidator(_tag_key),
]
#: registered_model_tags.value is varchar(5000), the smallest of the tag tables.
TagValue = Annotated[str, StringConstraints(max_length=5000)]
Tags = Annotated[dict[TagKey, TagValue], Field(max_length=64)]
#: registered_models.description and model_versions.description are varchar(5000).
Description = Annotated[str, StringConstraints(max_length=5000)]
#: mlflow/utils/validation.py: `_REGISTERED_MODEL_ALIAS_REGEX` and MAX_REGISTERED_MODEL_ALIAS_LENGTH.
AliasName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=255, pattern=r"^[\p{L}\p{N}_\-]+$"),
    AfterValidator(_alias),
]
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
#: mlflow/server/auth/db/models.py: users.username is varchar(255).
Username = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_username)]


class Grant(Model):
    """One user's permission on this object, given directly and not through a role."""

    user: Username = Field(description="MLflow user name.")
    permission: Literal["READ", "USE", "EDIT", "MANAGE", "DENY"] = Field(
        description="MLflow permission (mlflow/server/auth/permissions.py)."
    )


Grants = Annotated[list[Grant], Field(max_length=200, description="Direct permissions of users.")]


def alias_mistakes(aliases: Mapping[str, str | None], keys: Collection[str]) -> Iterator[Mistake]:
    """A mistake for every alias of a key that no version of the document has."""
    known = dict.fromkeys(keys)
    for alias, key in aliases.items():
        if key is not None and key not in known:
            what = f"the alias {alias} points at the version {key!r}, which is not declared here"
            yield Mistake(("aliases", alias, "key"), what, suggestion(key, known), tuple(known))


_ADDRESS = r"^https?://(\[[0-9a-fA-F:.]+\]|[^@/?#:\[\]]+)(:[0-9]+)?([/?#]|$)"


def without_login(instead: str) -> BeforeValidator:
    """Refuses an address with a login in it, and never repeats that; `instead` is where one goes."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and "@" in value and not re.match(_ADDRESS, value):
            raise refuse("an address holds no login", f"remove what is before the @; {instead}")
        return value

    return BeforeValidator(check)


#: An http address: a host, perhaps a port, and no login, since an address is kept and shown in clear.
Address = Annotated[str, StringConstraints(min_length=1, pattern=_ADDRESS)]


__all__ = [
    "Address",
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
    "without_login",
]
