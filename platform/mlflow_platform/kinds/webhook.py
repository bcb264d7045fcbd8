"""Webhook: an HTTP call on events of the registry.

MLflow knows a webhook by its id and lets many share a name; documents know it by its name. Where several
share one, none of them is touched until a person has said which is meant. MLflow never gives the secret
back: that it changed is told by the ledger's HMAC.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from mlflow_platform.errors import Problem
from mlflow_platform.kinds import access
from mlflow_platform.kinds.base import Api, Json, Kind, Snapshot, pages
from mlflow_platform.kinds.declared import common_document, no_document, sentence
from mlflow_platform.model.base import Document
from mlflow_platform.model.webhook import Webhook as WebhookDocument
from mlflow_platform.plan.objects import (
    Action,
    Change,
    Desired,
    Key,
    Observed,
    Path,
    SecretRef,
    Traits,
    Value,
)

#: mlflow/store/model_registry/sqlalchemy_store.py: the largest page `list_webhooks` gives.
MAX_A_PAGE = 1000

_PATH = "api/2.0/mlflow/webhooks"
URL: Path = ("url",)
EVENTS: Path = ("events",)
DESCRIPTION: Path = ("description",)
ACTIVE: Path = ("active",)
SECRET: Path = ("secret",)
#: Ids of webhooks that share the name. Never wanted, so that a plan shows it.
SAME_NAME: Path = ("webhooks with this name",)


class Webhook(Kind):
    """A webhook of one workspace."""

    name: ClassVar[str] = "Webhook"
    traits: ClassVar[Traits] = Traits(
        rank=50, optional=(DESCRIPTION, SECRET), exclusive=(SAME_NAME,), write_only=(SECRET,)
    )
    ledgered: ClassVar[bool] = True

    def desired(self, document: Document) -> Iterator[Desired]:
        assert isinstance(document, WebhookDocument)  # noqa: S101 - the registry of kinds pairs them
        spec = document.spec
        fields: dict[Path, Value] = {
            URL: spec.url,
            EVENTS: ",".join(sorted(set(spec.events))),
            ACTIVE: spec.active,
        }
        if spec.description:
            fields[DESCRIPTION] = spec.description
        ref = spec.secretRef
        yield Desired(
            key=Key(self.name, spec.workspace, spec.name or document.metadata.name),
            origin=document.origin,
            fields=fields,
            secrets={SECRET: SecretRef(ref.name, ref.key, document.metadata.namespace)} if ref else {},
            requires=access.in_workspace(spec.workspace),
            deletion=spec.deletionPolicy,
            observe_only=spec.managementPolicy == "ObserveOnly",
            allow_replace=document.allow_replace,
        )

    def observe(self, snapshot: Snapshot, wanted: Sequence[Desired]) -> Iterable[Observed]:
        for workspace in snapshot.workspaces:
            by_name: dict[str, list[Json]] = {}
            for webhook in _all(snapshot, workspace):
                by_name.setdefault(webhook["name"], []).append(webhook)
            for name, found in by_name.items():
                yield _observed(Key(self.name, workspace, name), found)

    def review(self, change: Change, secrets: Mapping[Path, str]) -> Problem | None:
        ids = change.handle.get("ids", ())
        if len(ids) > 1:
            return _several(change.key, ids)
        return None

    def execute(self, api: Api, change: Change, secrets: Mapping[Path, str], header: str | None) -> None:
        access.refuse(self.review(change, secrets))
        if change.action is Action.CREATE:
            # MLflow would take a second one of the name, and no document could tell the two apart.
            if any(w["name"] == change.key.name for w in _all(_now(api, header), header or "default")):
                raise access.made_meanwhile(change.key)
            body = {"name": change.key.name, **_body(change, secrets)}
            # Not repeated when its answer is lost: MLflow would make a second one. The next look at the
            # server finds the first by its name.
            api.call("POST", _PATH, json=body, workspace=header, idempotent=False)
            return
        path = f"{_PATH}/{change.handle['ids'][0]}"
        if change.action is Action.DELETE:
            access.remove(api, "DELETE", path, {}, header)
            return
        body = _body(change, secrets)
        if body:
            api.call("PATCH", path, json=body, workspace=header)

    def document(self, observed: Observed) -> Json | None:
        fields = observed.fields
        if SAME_NAME in fields or urlsplit(str(fields[URL])).username is not None:
            return None
        spec: Json = {"url": fields[URL], "events": str(fields[EVENTS]).split(",")}
        if not fields[ACTIVE]:
            spec["active"] = False
        return common_document(observed, spec)

    def left_out(self, observed: Observed) -> str | None:
        if SAME_NAME in observed.fields:
            problem = _several(observed.key, observed.handle["ids"])
            return no_document(observed, f"{problem.what}; {problem.remedy}")
        if urlsplit(str(observed.fields[URL])).username is not None:
            return no_document(observed, "its URL holds a login, which belongs into no document")
        # The ledger knows the secret by its HMAC, not where it is kept.
        return sentence(observed, [], ["spec.secretRef"] if SECRET in observed.fields else [])


def _several(key: Key, ids: Sequence[str]) -> Problem:
    return Problem(
        f"{len(ids)} webhooks are named {key.name!r}: {', '.join(ids)}; "
        "which of them is meant cannot be told",
        "delete or rename all but one of them in MLflow (DELETE /api/2.0/mlflow/webhooks/<id>)",
    )


def _now(api: Api, header: str | None) -> Snapshot:
    return Snapshot(api, (header or "default",), workspaces_on=header is not None)


def _all(snapshot: Snapshot, workspace: str) -> list[Json]:
    def page(token: str | None) -> Json:
        params = {"max_results": MAX_A_PAGE} | ({"page_token": token} if token else {})
        return snapshot.api.call("GET", _PATH, params=params, workspace=snapshot.header(workspace))

    return list(pages(page, "webhooks"))


def _observed(key: Key, found: Sequence[Json]) -> Observed:
    ordered = sorted(found, key=lambda w: (w["creation_timestamp"], w["webhook_id"]))
    webhook, ids = ordered[0], [w["webhook_id"] for w in ordered]
    events = sorted(f"{e['entity']}.{e['action']}".lower() for e in webhook["events"])
    return Observed(
        key=key,
        fields={
            URL: webhook["url"],
            EVENTS: ",".join(events),
            DESCRIPTION: webhook.get("description") or None,
            ACTIVE: webhook.get("status", "ACTIVE") == "ACTIVE",
            **({SAME_NAME: ", ".join(ids)} if len(ids) > 1 else {}),
        },
        handle={"ids": ids},
    )


def _body(change: Change, secrets: Mapping[Path, str]) -> dict[str, Any]:
    """What to send: the changed fields in MLflow's form. An empty text clears a field."""
    body: dict[str, Any] = {}
    for field in change.fields:
        if field.path == URL:
            body["url"] = field.new
        elif field.path == EVENTS:
            pairs = [e.upper().split(".") for e in str(field.new).split(",")]
            body["events"] = [{"entity": entity, "action": action} for entity, action in pairs]
        elif field.path == DESCRIPTION:
            body["description"] = field.new or ""
        elif field.path == ACTIVE:
            body["status"] = "ACTIVE" if field.new else "DISABLED"
        elif field.path == SECRET:
            body["secret"] = secrets.get(SECRET, "")
    return body
