"""`mlplatform apply` in a process that kills itself with SIGKILL at its n-th HTTP request.

    python -m tests.faults.dying_apply N before|after ARGUMENTS...

`before`: nothing of the request is sent. `after`: the server has answered, and nobody has read it.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

from mlflow_platform.adapters.http import Answer, Connections
from mlflow_platform.cli.root import run


def main() -> int:
    fatal, moment = int(sys.argv[1]), sys.argv[2]
    count = itertools.count(1)
    send = Connections.request

    def request(self: Connections, *args: Any, **kwargs: Any) -> Answer:
        dies = next(count) == fatal
        if dies and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = send(self, *args, **kwargs)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    Connections.request = request  # type: ignore[method-assign]
    code = run(["apply", *sys.argv[3:]])
    print(f"requests: {next(count) - 1}")
    return code


if __name__ == "__main__":
    sys.exit(main())
