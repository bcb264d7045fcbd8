"""`mlplatform rotate` in a process that kills itself with SIGKILL at its n-th write to the API server.

    python -m tests.cluster.dying_rotation N before|after ARGUMENTS...

`before`: nothing of the write is sent. `after`: the server has answered, and nobody has read it. What keeps
the command's turn (the Lease, every few seconds) is no write of the rotation, and does not count.
"""

from __future__ import annotations

import sys
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.cli.root import run
from tests.dying import Death


def main() -> int:
    death = Death(int(sys.argv[1]), sys.argv[2])
    send = Cluster._request

    def request(self: Cluster, method: str, path: str, **kwargs: Any) -> Any:
        if method == "GET" or "/leases" in path:
            return send(self, method, path, **kwargs)
        return death.at(send, self, method, path, **kwargs)

    Cluster._request = request  # type: ignore[method-assign] # that is the point
    return run(["rotate", *sys.argv[3:]])


if __name__ == "__main__":
    sys.exit(main())
