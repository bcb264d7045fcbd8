"""`mlplatform rotate` in a process that kills itself with SIGKILL at its n-th write to the API server.

    python -m tests.cluster.dying_rotation N before|after ARGUMENTS...

`before`: nothing of the write is sent. `after`: the server has answered, and nobody has read it.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.cli.root import run


def main() -> int:
    fatal, moment = int(sys.argv[1]), sys.argv[2]
    count = itertools.count(1)
    send = Cluster._request

    def request(self: Cluster, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "GET":
            return send(self, method, *args, **kwargs)
        dies = next(count) == fatal
        if dies and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return send(self, method, *args, **kwargs)
        finally:
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)

    Cluster._request = request  # type: ignore[method-assign]
    return run(["rotate", *sys.argv[3:]])


if __name__ == "__main__":
    sys.exit(main())
