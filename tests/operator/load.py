"""Many documents at once, and whether each has exactly one object in the end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow_platform.errors import PlatformError
from mlflow_platform.model.base import API_VERSION
from tests.operator.running import OPS, Json, Site, document, eventually, experiment

_EACH = 5


@dataclass(frozen=True)
class Load:
    """Documents whose names begin with `prefix`: `count` experiments, which take a while, and a few of each
    kind that MLflow would let be made twice."""

    site: Site
    prefix: str
    count: int
    server: str = "default"

    def documents(self) -> list[Json]:
        prefix = self.prefix
        version = {"versions": [{"key": "k", "source": "s3://b/k"}], "aliases": {"champion": {"key": "k"}}}
        prompt = {"versions": [{"key": "k", "template": f"Say {prefix}."}]}
        hook = {"url": "https://192.0.2.1/hook", "events": ["prompt.created"]}
        found = [experiment(f"{prefix}-{i:03}", tags={"a": "b"}) for i in range(self.count)]
        few = {"model": ("RegisteredModel", version), "prompt": ("Prompt", prompt), "hook": ("Webhook", hook)}
        step = self.count // _EACH
        for i in range(_EACH):  # among the experiments, so that all kinds are always under way
            of_each = [document(kind, f"{prefix}-{word}-{i}", spec) for word, (kind, spec) in few.items()]
            found[i * (step + len(few)) : 0] = of_each
        for one in found:
            one["spec"] = {**one["spec"], "server": self.server}
        return found

    def apply(self) -> None:
        self.site.apply(*self.documents())

    @contextlib.contextmanager
    def being_applied(self) -> Iterator[None]:
        """Apply the documents in the background, each until the API server takes it; all are in when this
        ends."""
        stop = threading.Event()

        def send() -> None:
            for one in self.documents():
                while not stop.is_set():
                    with contextlib.suppress(PlatformError):
                        self.site.apply(one)
                        break

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        try:
            eventually(lambda: self.made() > _EACH, "the first are made")
            yield
            thread.join(120)
            assert not thread.is_alive(), "the API server does not take the documents"
        finally:
            stop.set()

    def made(self) -> int:
        """How many experiments there are whose names begin so."""
        body = {"max_results": 50_000, "view_type": "ALL", "filter": f"name LIKE '{self.prefix}%'"}
        found = self.site.api.call("POST", "api/2.0/mlflow/experiments/search", json=body)
        return len(found.get("experiments", ()))

    def ready(self) -> bool:
        """Whether all documents are in, and Ready as they are now."""
        found = [
            item
            for kind in ("Experiment", "RegisteredModel", "Prompt", "Webhook")
            for item in self.site.cluster.find(API_VERSION, kind, OPS)
            if item["metadata"]["name"].startswith(self.prefix)
        ]
        ready = [
            c["status"]
            for item in found
            if item.get("status", {}).get("observedGeneration") == item["metadata"]["generation"]
            for c in item["status"].get("conditions", ())
            if c["type"] == "Ready"
        ]
        return ready == ["True"] * (self.count + 3 * _EACH)

    def converges(self) -> None:
        """Wait until all are Ready; then each has one object."""
        eventually(self.ready, f"all of {self.prefix} are ready")
        assert self.made() == self.count
        call = self.site.api.call
        params = {"max_results": 1000, "filter": f"name LIKE '{self.prefix}-model%'"}
        versions = call("GET", "api/2.0/mlflow/model-versions/search", params=params)["model_versions"]
        assert sorted(v["name"] for v in versions) == [f"{self.prefix}-model-{i}" for i in range(_EACH)]
        for i in range(_EACH):
            params = {
                "filter": f"name = '{self.prefix}-prompt-{i}' AND tags.`mlflow.prompt.is_prompt` = 'true'"
            }
            found = call("GET", "api/2.0/mlflow/model-versions/search", params=params)["model_versions"]
            assert len(found) == 1
        hooks = call("GET", "api/2.0/mlflow/webhooks", params={"max_results": 1000})["webhooks"]
        mine = sorted(h["name"] for h in hooks if h["name"].startswith(self.prefix))
        assert mine == [f"{self.prefix}-hook-{i}" for i in range(_EACH)]
