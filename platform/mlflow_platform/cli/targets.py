"""From documents, options and the environment to the servers a command works on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mlflow_platform.cli import output
from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    from mlflow_platform.apply.rounds import Target
    from mlflow_platform.config import Configuration, Loaded
    from mlflow_platform.errors import Problem
    from mlflow_platform.model.tracking_server import TrackingServer
    from mlflow_platform.plan.objects import Desired, ObjectProblem

DEFAULT_SERVER = "default"


@dataclass(frozen=True)
class Connection:
    """Where the server `default` is. `explicit`: it was said on the command line, which beats documents.

    `secrets` is a folder, `env:PREFIX`, or None.
    """

    tracking_uri: str | None = None
    username: str | None = None
    password: str | None = None
    secrets: str | None = None
    explicit: bool = False

    def __repr__(self) -> str:
        return f"Connection({self.tracking_uri!r})"


@dataclass(frozen=True)
class Site:
    """One server with the objects declared for it."""

    server: str
    target: Target
    desired: tuple[Desired, ...]
    document: TrackingServer | None = None
    sources: Mapping[str, Loaded] = field(default_factory=dict)
    """Where the documents are written, by their `origin`."""

    def placed(self, problem: ObjectProblem) -> Problem:
        """The problem with the place of the name it is about, where its document mentions that name."""
        loaded = self.sources.get(problem.origin.split("#")[0])
        if loaded is None or not problem.names:
            return problem.problem
        spec = loaded.document.model_dump(mode="json", include={"spec"}, exclude_unset=True)
        path = _path_of(problem.names[0], spec)
        return replace(problem.problem, where=loaded.where(*path)) if path else problem.problem


def connection(tracking_uri: str | None, secrets: str | None) -> Connection:
    """The option first, then MLFLOW_TRACKING_*, then the local stack. Passwords never come as options.

    The local stack's login and secrets serve only for its own address.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    found = Connection(uri, user, password, secrets, explicit=tracking_uri is not None)
    from mlflow_platform.local.folder import find
    from mlflow_platform.local.stack import Stack

    stack = Stack(find())
    if not stack.status().exists:
        return found
    local = stack.endpoints()
    if uri not in (None, local.tracking_uri):
        return found
    return replace(
        found,
        tracking_uri=local.tracking_uri,
        username=user or local.username,
        password=password or local.password,
        secrets=secrets or (str(local.secrets) if local.secrets.is_dir() else None),
    )


def sites(configuration: Configuration, project: str | None, wanted: Connection) -> list[Site]:
    """The servers that the documents name, each probed, with the objects declared for it.

    `default` is the one given on the command line, else the TrackingServer document of that name, else
    the one of the environment or the local stack. Raises `BadInput` where a server is not known.
    """
    from mlflow_platform.adapters.servers import connect, connect_documented
    from mlflow_platform.config.secrets import SecretSource
    from mlflow_platform.model.tracking_server import TrackingServer

    owner = owner_name(configuration, project)
    source = SecretSource(wanted.secrets, os.environ, output.note)
    documents = {
        d.document.metadata.name: d.document
        for d in configuration.documents
        if isinstance(d.document, TrackingServer)
    }
    if wanted.explicit:
        documents.pop(DEFAULT_SERVER, None)
    sources = {d.document.origin: d for d in configuration.documents}
    found = []
    for name, objects in sorted(_declared(configuration).items()):
        if name in documents:
            target = connect_documented(documents[name], owner, source)
            found.append(Site(name, target, tuple(objects), documents[name], sources))
        elif name != DEFAULT_SERVER:
            known = ", ".join(sorted({*documents, DEFAULT_SERVER}))
            raise BadInput(
                f"documents name the server {name!r}, but no TrackingServer document has that name",
                remedy=f"add one, or correct spec.server (known: {known})",
            )
        elif wanted.tracking_uri is None:
            raise BadInput(
                "no tracking server: none is given and no local stack is running",
                remedy="pass --tracking-uri, set MLFLOW_TRACKING_URI, or start one with `mlplatform up`",
            )
        else:
            uri = wanted.tracking_uri
            target = connect(uri, wanted.username, wanted.password, owner=owner, secrets=source)
            found.append(Site(name, target, tuple(objects), sources=sources))
    return found


def owner_name(configuration: Configuration, project: str | None) -> str:
    """`project:<name>`; the name is never guessed, since it decides what may be given up."""
    from mlflow_platform.config.project import check_name

    name = project or configuration.project
    if not name:
        raise BadInput(
            "these documents have no project name, so it is unknown which objects on the server are theirs",
            remedy='write `project = "some-name"` into mlplatform.toml beside them, or pass --project',
        )
    return f"project:{check_name(name)}"


def _declared(configuration: Configuration) -> dict[str, list[Desired]]:
    """Desired objects by server; the server `default` also where nothing is declared at all."""
    from mlflow_platform.kinds.registry import KINDS

    found: dict[str, list[Desired]] = {}
    for loaded in configuration.documents:
        if loaded.document.kind not in KINDS:  # a TrackingServer, a RetentionPolicy: no object of MLflow's
            continue
        where = loaded.where()
        group = found.setdefault(loaded.document.spec.server, [])
        group.extend(
            replace(item, where=where) for item in KINDS[loaded.document.kind].desired(loaded.document)
        )
    return found or {DEFAULT_SERVER: []}


def _path_of(name: str, value: Any, path: tuple[str | int, ...] = ()) -> tuple[str | int, ...]:
    """The path of the first text `name`, as a value or as a key; empty where there is none."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in items:
        if name in (step, item):
            return (*path, step)
        found = _path_of(name, item, (*path, step))
        if found:
            return found
    return ()
