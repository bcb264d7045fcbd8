"""`mlplatform operator run` in a process that kills itself with SIGKILL at its n-th side effect.

    python -m tests.operator.dying N before|after operator run ...

A side effect is a request that changes something on MLflow or in Kubernetes, the Lease's left out. `before`:
nothing of it is sent. `after`: the answer was there, and nobody has read it. At the end of a run that is not
killed, the log says how many there were.
"""

from __future__ import annotations

import sys
from typing import Any

from mlflow_platform.adapters.http import Answer, Connections
from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.cli.root import run
from tests.dying import Death


def main() -> int:
    death = Death(int(sys.argv[1]), sys.argv[2])
    to_mlflow, to_kubernetes = Connections.request, Cluster._request

    def mlflow(self: Connections, method: str, target: str, *args: Any, **kwargs: Any) -> Answer:
        if method == "GET" or target.endswith("/search"):
            return to_mlflow(self, method, target, *args, **kwargs)
        found: Answer = death.at(to_mlflow, self, method, target, *args, **kwargs)
        return found

    def kubernetes(self: Cluster, method: str, path: str, **kwargs: Any) -> Any:
        if method == "GET" or "/leases" in path or "/events" in path:
            return to_kubernetes(self, method, path, **kwargs)
        return death.at(to_kubernetes, self, method, path, **kwargs)

    Connections.request = mlflow  # type: ignore[method-assign] # that is the point
    Cluster._request = kubernetes  # type: ignore[method-assign] # that is the point
    code = run(sys.argv[3:])
    print(f"side effects: {death.calls}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
