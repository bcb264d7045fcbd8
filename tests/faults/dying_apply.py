"""`mlplatform apply` in a process that kills itself with SIGKILL at its n-th HTTP request.

    python -m tests.faults.dying_apply N before|after ARGUMENTS...

`before`: nothing of the request is sent. `after`: the server has answered, and nobody has read it.
"""

from __future__ import annotations

import sys
from typing import Any

from mlflow_platform.adapters.http import Answer, Connections
from mlflow_platform.cli.root import run
from tests.dying import Death


def main() -> int:
    death = Death(int(sys.argv[1]), sys.argv[2])
    send = Connections.request

    def request(self: Connections, *args: Any, **kwargs: Any) -> Answer:
        answer: Answer = death.at(send, self, *args, **kwargs)
        return answer

    Connections.request = request  # type: ignore[method-assign] # that is the point
    code = run(["apply", *sys.argv[3:]])
    print(f"requests: {death.calls}")
    return code


if __name__ == "__main__":
    sys.exit(main())
