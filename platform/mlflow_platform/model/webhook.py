"""Webhook: an HTTP call on events of the registry."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from mlflow_platform.model.base import Document, ObjectSpec, SecretReference
from mlflow_platform.model.fields import Description, Workspace


class WebhookSpec(ObjectSpec):
    """What a webhook should be."""

    workspace: Workspace = "default"
    url: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^https?://")] = Field(
        description="Where events are sent. https only, to a public address, unless the server allows more."
    )
    events: Annotated[
        list[Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z_]+\.[a-z_]+$")]],
        Field(min_length=1, max_length=64),
    ] = Field(description="`entity.action`, for example `model_version.created`.")
    description: Description | None = Field(None, description="What the webhook is for.")
    secretRef: SecretReference | None = Field(None, description="Where the signing secret is.")
    active: bool = Field(True, description="Whether events are sent.")


class Webhook(Document):
    """A webhook of a tracking server."""

    plural: ClassVar[str] = "webhooks"
    kind: Literal["Webhook"] = "Webhook"
    spec: WebhookSpec
