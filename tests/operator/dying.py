"""`mlplatform operator run` in a process that kills itself with SIGKILL at its n-th side effect.

    python -m tests.operator.dying N before|after operator run ...

A side effect is a request that changes something on MLflow or in Kubernetes, the Lease's and Events left out.
`before`: nothing of it is sent. `after`: the answer was there, and nobody has read it. Each is written to the
log as it comes. What otherwise happens at once happens one after another here, always in the same order (with
PYTHONHASHSEED=0): the n-th side effect is the same one in every run.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from mlflow_platform.adapters.http import Answer, Connections
from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.apply import execute
from mlflow_platform.cli.root import run
from mlflow_platform.operator import loop, reconciling
from mlflow_platform.operator.cache import Cache
from mlflow_platform.operator.entries import Entry
from tests.dying import Death

#: What begins a line of the log about a side effect.
SAID = "side effect: "


class Numbered(Future[Any]):
    """One whose place in a set is the same in every run."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self._number = next(self._numbers)

    def __hash__(self) -> int:
        return self._number


class AtOnce(Executor):
    """Does what it is given right away, in the caller's thread."""

    def __init__(self, *_: object) -> None: ...

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done = Numbered()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - as a Future gives it on
            done.set_exception(error)
        return done


def main() -> int:
    death = Death(int(sys.argv[1]), sys.argv[2])
    to_mlflow, to_kubernetes, of_server = Connections.request, Cluster._request, Cache.of_server

    def mlflow(self: Connections, method: str, target: str, *args: Any, **kwargs: Any) -> Answer:
        if method == "GET" or target.endswith("/search"):
            return to_mlflow(self, method, target, *args, **kwargs)
        print(f"{SAID}{method} {target}", flush=True)
        found: Answer = death.at(to_mlflow, self, method, target, *args, **kwargs)
        return found

    def kubernetes(self: Cluster, method: str, path: str, **kwargs: Any) -> Any:
        if method == "GET" or "/leases" in path or "/events" in path:
            return to_kubernetes(self, method, path, **kwargs)
        print(f"{SAID}{method} {path}", flush=True)
        return death.at(to_kubernetes, self, method, path, **kwargs)

    def in_order(self: Cache, server: str) -> list[Entry]:
        return sorted(of_server(self, server), key=lambda entry: entry.origin)

    Cache.of_server = in_order  # type: ignore[method-assign] # that is the point
    Connections.request = mlflow  # type: ignore[method-assign] # that is the point
    Cluster._request = kubernetes  # type: ignore[method-assign] # that is the point
    for module in (execute, loop, reconciling):
        module.ThreadPoolExecutor = AtOnce  # type: ignore[attr-defined] # that is the point
    return run(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
