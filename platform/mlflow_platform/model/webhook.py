"""Webhook: an HTTP call on events of the registry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from mlflow_platform.model.base import Document, Mistake, ObjectSpec, SecretReference, repeated
from mlflow_platform.model.fields import Address, Workspace, without_login

#: mlflow/utils/validation.py: `_WEBHOOK_NAME_REGEX`.
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", re.IGNORECASE)
LONGEST_NAME = 63
#: mlflow/store/model_registry/dbmodels/models.py: webhooks.description is varchar(1000).
WebhookDescription = Annotated[str, StringConstraints(max_length=1000)]
#: mlflow/entities/webhook.py: `WebhookEventStr`.
Event = Literal[
    "registered_model.created",
    "model_version.created",
    "model_version_tag.set",
    "model_version_tag.deleted",
    "model_version_alias.created",
    "model_version_alias.deleted",
    "prompt.created",
    "prompt_version.created",
    "prompt_tag.set",
    "prompt_tag.deleted",
    "prompt_version_tag.set",
    "prompt_version_tag.deleted",
    "prompt_alias.created",
    "prompt_alias.deleted",
    "budget_policy.exceeded",
]


class WebhookSpec(ObjectSpec):
    """What a webhook should be."""

    workspace: Workspace = "default"
    url: Annotated[
        Address,
        StringConstraints(max_length=500),
        without_login("the receiver checks the signature that the secret of secretRef makes"),
    ] = Field(
        description="Where events are sent, without a login. https only, to a public address, unless the "
        "server allows more."
    )
    events: Annotated[list[Event], Field(min_length=1, max_length=64)] = Field(
        description="`entity.action`, for example `model_version.created`."
    )
    description: WebhookDescription | None = Field(None, description="What the webhook is for.")
    secretRef: SecretReference | None = Field(None, description="Where the signing secret is.")
    active: bool = Field(True, description="Whether events are sent.")

    def mistakes(self, default_name: str) -> Iterator[Mistake]:
        name = self.name or default_name
        if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
            what = f"MLflow takes no webhook named {name!r}"
            remedy = (
                f"use letters, digits, dots, dashes and underscores, a letter or digit at both ends, "
                f"at most {LONGEST_NAME} characters"
            )
            yield Mistake(("name",), what, remedy)
        yield from repeated("events", self.events, "event")


class Webhook(Document):
    """A webhook of a tracking server."""

    plural: ClassVar[str] = "webhooks"
    kind: Literal["Webhook"] = "Webhook"
    spec: WebhookSpec
