"""What our figures are compared with: the barest HTTP clients that do the same work.

    python -m tests.bench.bare list          list experiments, models and prompts, decoded
    python -m tests.bench.bare create FILE   POST every body of FILE, on 8 kept connections

The server and the login come from MLFLOW_TRACKING_*. Prints seconds.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

CONNECTIONS = 8


class Bare:
    """One kept connection."""

    def __init__(self) -> None:
        parts = urlsplit(os.environ["MLFLOW_TRACKING_URI"])
        login = f"{os.environ['MLFLOW_TRACKING_USERNAME']}:{os.environ['MLFLOW_TRACKING_PASSWORD']}"
        self._headers = {
            "Authorization": "Basic " + base64.b64encode(login.encode()).decode(),
            "Content-Type": "application/json",
        }
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port)

    def send(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        """The decoded answer; anything but 200 ends the program."""
        self._connection.request(method, f"/api/2.0/mlflow/{path}", body, self._headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{method} {path}: {answer.status} {data[:200]!r}")
        found: dict[str, Any] = json.loads(data)
        return found


def _models(bare: Bare, condition: str) -> Iterator[dict[str, Any]]:
    token = ""
    while True:
        query = (
            f"registered-models/search?max_results=1000&filter={quote(condition)}&page_token={quote(token)}"
        )
        answer = bare.send("GET", query)
        yield from answer.get("registered_models", ())
        token = answer.get("next_page_token", "")
        if not token:
            return


def list_everything() -> int:
    """How many objects there are."""
    bare = Bare()
    body = json.dumps({"max_results": 50_000, "view_type": "ALL"}).encode()
    experiments = bare.send("POST", "experiments/search", body)["experiments"]
    models = list(_models(bare, ""))
    prompts = list(_models(bare, "tags.`mlflow.prompt.is_prompt` = 'true'"))
    return len(experiments) + len(models) + len(prompts)


def create(bodies: list[tuple[str, bytes]]) -> None:
    """Send every (path, body)."""
    todo = iter(bodies)
    lock = threading.Lock()

    def work() -> None:
        bare = Bare()
        while True:
            with lock:
                item = next(todo, None)
            if item is None:
                return
            bare.send("POST", *item)

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    start = time.perf_counter()
    if sys.argv[1] == "list":
        list_everything()
    else:
        lines = Path(sys.argv[2]).read_text("utf-8").splitlines()
        items = [(path, json.dumps(body).encode()) for path, body in map(json.loads, lines)]
        start = time.perf_counter()
        create(items)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
