"""The Secrets of a rotation: its own, with what comes next, and the one that everybody reads."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.chart import Release
from mlflow_platform.errors import BadInput, Rejected


@dataclass(frozen=True)
class Credentials:
    """Those of one release. A rotation's own Secret is called by `what` is rotated, such as `database`."""

    cluster: Cluster
    release: Release

    def present(self, name: str, *, ours: bool = True) -> Mapping[str, Any]:
        """A Secret; `ours`: one that nothing else writes."""
        found = self.cluster.get("v1", "Secret", self.release.namespace, name)
        if found is None:
            raise BadInput(f"there is no Secret {name} in namespace {self.release.namespace}")
        if ours and (owners := found["metadata"].get("ownerReferences")):
            owner = f"{owners[0]['kind']} {owners[0]['name']}"
            raise BadInput(
                f"Secret {name} belongs to {owner}, which would undo a change",
                remedy="change it there, then deploy: docs/rotation.md says in which order",
            )
        return found

    def staged(self, what: str) -> dict[str, str]:
        """The content of a rotation's own Secret; empty if none is under way."""
        name = f"{self.release.name}-{what}-rotation"
        found = self.cluster.get("v1", "Secret", self.release.namespace, name)
        return {k: base64.b64decode(v).decode() for k, v in ((found or {}).get("data") or {}).items()}

    def stage(self, what: str, content: Mapping[str, str]) -> dict[str, str]:
        """Write it before anything uses it; what another command wrote meanwhile counts instead."""
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": f"{self.release.name}-{what}-rotation",
                "namespace": self.release.namespace,
                "labels": {"app.kubernetes.io/managed-by": "mlplatform"},
            },
            "stringData": dict(content),
        }
        try:
            self.cluster.create(secret)
        except Rejected as error:
            if error.code != "409":  # AlreadyExists
                raise
            if not set(content) <= set(self.staged(what)):
                self.restage(what, content)  # what is left of an earlier one's overlap
        return self.staged(what)

    def restage(self, what: str, content: Mapping[str, str | None]) -> None:
        """Change it; None takes a key away."""
        data = {k: None if v is None else encoded(v) for k, v in content.items()}
        name = f"{self.release.name}-{what}-rotation"
        self.cluster.patch("v1", "Secret", self.release.namespace, name, {"data": data})

    def unstage(self, what: str) -> None:
        """The rotation has ended."""
        self.cluster.delete("v1", "Secret", self.release.namespace, f"{self.release.name}-{what}-rotation")

    @staticmethod
    def is_next(present: Mapping[str, Any], staged: Mapping[str, str], key: str, previous: str) -> bool:
        """Whether the staged one is still to come; False if the Secret holds it already."""
        found = decoded(present, key)
        if found not in (staged[key], staged[previous]):
            name = present["metadata"]["name"]
            raise Rejected(
                f"Secret {name} was changed by hand in the middle of a rotation: {key} is {found}, not "
                f"{staged[previous]} or {staged[key]}",
                remedy=f"put {key} and what belongs to it back, then rotate again",
            )
        return found != staged[key]

    def switch(self, present: Mapping[str, Any], content: Mapping[str, str]) -> None:
        """Change the Secret that everybody reads, in one write, if it is still the one that was read."""
        meta = present["metadata"]
        changes = {
            "metadata": {"resourceVersion": meta["resourceVersion"]},
            "data": {k: encoded(v) for k, v in content.items()},
        }
        try:
            self.cluster.patch("v1", "Secret", self.release.namespace, meta["name"], changes)
        except Rejected as error:
            if error.code != "409":
                raise
            raise Rejected(
                f"Secret {meta['name']} was changed meanwhile by somebody else", remedy="rotate again"
            ) from error


def decoded(secret: Mapping[str, Any], key: str) -> str:
    """What a Secret holds under a key; `BadInput` if there is no such key."""
    try:
        return base64.b64decode(secret["data"][key]).decode()
    except (KeyError, TypeError):
        raise BadInput(f"Secret {secret['metadata']['name']} has no key {key}") from None


def encoded(text: str) -> str:
    """As a Secret's `data` holds it."""
    return base64.b64encode(text.encode()).decode()
