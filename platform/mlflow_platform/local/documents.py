"""Secret values for documents applied to a local stack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from mlflow_platform.model import Document
from mlflow_platform.model.base import SecretReference
from mlflow_platform.model.tracking_server import TrackingServer


def references(documents: Iterable[Document], server: str = "default") -> Iterator[tuple[str, str]]:
    """The (name, key) of every SecretRef of the documents for one server.

    Not those of a TrackingServer: they are logins of a server that is elsewhere, which nobody can invent.
    """
    for document in documents:
        if not isinstance(document, TrackingServer) and getattr(document.spec, "server", server) == server:
            yield from _within(document.spec)


def _within(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, SecretReference):
        yield value.name, value.key
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _within(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _within(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _within(item)
