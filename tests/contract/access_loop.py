"""One folder of documents against one server, with every request on record."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_platform.adapters.mlflow import MlflowApi
from mlflow_platform.apply.execute import Result, converge
from mlflow_platform.apply.rounds import Scope, Target, observe_all, plan_round
from mlflow_platform.errors import BadInput
from mlflow_platform.kinds.registry import KINDS
from mlflow_platform.model import DOCUMENTS
from mlflow_platform.plan.engine import Plan
from mlflow_platform.plan.objects import Desired, Key, Observed, SecretRef

Json = dict[str, Any]


class Recorder:
    """The real adapter; `requests` are the calls made through it, ids replaced by `<id>`."""

    def __init__(self, api: MlflowApi) -> None:
        self._api = api
        self.username = api.username
        self.address = api.address
        self.requests: list[str] = []

    def call(self, method: str, path: str, **options: Any) -> Json:
        self.requests.append(f"{method} {re.sub(r'[0-9a-f-]{36}$', '<id>', path)}")
        return self._api.call(method, path, **options)

    @property
    def writes(self) -> int:
        """How many requests so far were not reads, by the adapter's own count."""
        return self._api.sent.get("writes", 0)

    def take(self) -> list[str]:
        """The calls since the last take, those of the ledger's experiment left out."""
        taken, self.requests = self.requests, []
        ledger = ("experiments/set-experiment-tag", "experiments/delete-experiment-tag", "experiments/create")
        return [r for r in taken if not r.endswith(ledger)]


@dataclass
class Folder:
    """What a person has in one folder: documents, secrets, and a project's name of its own."""

    api: Recorder
    login_secret: str
    workspaces_on: bool = False
    owner: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:8]}")
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def target(self) -> Target:
        workspaces = ("default",)
        if self.workspaces_on:
            listed = self.api._api.call("GET", "api/3.0/mlflow/workspaces")["workspaces"]
            workspaces = tuple(w["name"] for w in listed)
        return Target(
            self.api,
            self.owner,
            KINDS,
            self._resolve,
            self.login_secret,
            workspaces,
            self.workspaces_on,
        )

    def _resolve(self, ref: SecretRef) -> str:
        if ref.name not in self.secrets:
            raise BadInput(f"there is no secret {ref}")
        return self.secrets[ref.name]

    def plan(self, *documents: Json, **scope: Any) -> Plan:
        return plan_round(self.target, _desired(documents), Scope(**scope)).plan

    def unchanged(self, *documents: Json) -> list[str]:
        """The reads of a plan of nothing but these documents, which must find nothing to change."""
        self.api.take()
        plan = self.plan(*documents, prune=False)
        assert not plan.problems
        assert plan.empty, plan.changes
        return self.api.take()

    def problems(self, *documents: Json, **scope: Any) -> list[str]:
        """What the plan says cannot be done. Nothing may be written to learn it."""
        before = self.api.writes
        found = self.plan(*documents, **scope).problems
        assert self.api.writes == before
        return [str(p.problem) for p in found]

    def apply(self, *documents: Json, **scope: Any) -> list[Result]:
        target, desired = self.target, _desired(documents)
        first = plan_round(target, desired, Scope(**scope))
        assert not first.plan.problems, first.plan.problems
        self.api.take()
        return converge(target, desired, Scope(**scope), first, allowed=first.plan.hash)

    def succeed(self, *documents: Json, **scope: Any) -> list[str]:
        """Apply; the summary of each change, all of which must have been done."""
        results = self.apply(*documents, **scope)
        assert [str(r.error) for r in results if r.error] == []
        return [f"{r.change.action} {r.change.key.name}" for r in results]

    def observed(self, key: Key) -> Observed:
        return next(o for o in observe_all(self.target) if o.key == key)

    def imported(self, key: Key) -> Json | None:
        return KINDS[key.kind].document(self.observed(key))


def _desired(documents: tuple[Json, ...]) -> list[Desired]:
    found: list[Desired] = []
    for document in documents:
        model = DOCUMENTS[document["kind"]].model_validate(document)
        found.extend(KINDS[document["kind"]].desired(model))
    return found


def document(kind: str, name: str, /, **spec: Any) -> Json:
    """A document as YAML would give it."""
    return {
        "apiVersion": "mlplatform.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def secret(name: str) -> Mapping[str, str]:
    """A reference to the secret `name`."""
    return {"name": name, "key": "value"}


def unique(stem: str) -> str:
    """A name no other test has."""
    return f"{stem}-{uuid.uuid4().hex[:8]}"
