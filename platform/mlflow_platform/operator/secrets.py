"""Secrets of the cluster, read one by one, by name, and never listed or kept beyond a round."""

from __future__ import annotations

import base64
import threading

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.errors import BadInput, Rejected
from mlflow_platform.plan.objects import SecretRef


class ClusterSecrets:
    """What documents of one round refer to. `missing` are those that could not be read.

    `only_namespace`: the one namespace in which a TrackingServer's Secrets are, whatever it says.
    """

    def __init__(self, cluster: Cluster, only_namespace: str = "") -> None:
        self._cluster = cluster
        self._only = only_namespace
        self._lock = threading.Lock()
        self._read: dict[tuple[str, str], dict[str, str] | BadInput] = {}
        self.missing: set[SecretRef] = set()

    def resolve(self, name: str, key: str, namespace: str = "default") -> str:
        """The value. Raises `BadInput` where there is none, or it may not be read."""
        namespace = self._only or namespace
        with self._lock:
            found = self._read.get((namespace, name))
        if found is None:
            found = self._get(namespace, name)
            with self._lock:
                self._read[namespace, name] = found
        if isinstance(found, dict) and key in found:
            return found[key]
        self.missing.add(SecretRef(name, key, namespace))
        if isinstance(found, BadInput):
            raise found
        what = f"Secret {name} of namespace {namespace} has no key {key!r}"
        raise BadInput(what, remedy="add the key, or correct the document")

    def _get(self, namespace: str, name: str) -> dict[str, str] | BadInput:
        try:
            found = self._cluster.get("v1", "Secret", namespace, name)
        except Rejected as error:
            what = f"Secret {name} of namespace {namespace} may not be read: {error.problem.what}"
            remedy = "have the namespace added to operator.secretNamespaces of the chart's values"
            return BadInput(what, remedy=remedy)
        if found is None:
            return BadInput(f"there is no Secret {name} in namespace {namespace}", remedy="make it")
        values: dict[str, str] = {}
        for key, value in (found.get("data") or {}).items():
            try:
                # As `--secrets DIR` reads files: an editor's last newline is not part of a password.
                values[key] = base64.b64decode(value).decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError:
                continue  # binary: no field takes it
        return values
