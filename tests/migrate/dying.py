"""Migrates by the command, and kills itself with SIGKILL at a step, or at the n-th object.

python -m tests.migrate.dying put:N|STEP before|after SOURCE
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from typing import Any

from mlflow_platform.adapters.s3 import S3Store
from mlflow_platform.cli.root import run
from mlflow_platform.migrate import move
from tests.dying import Death


def main(at: str, moment: str, source: str) -> None:
    if at.startswith("put:"):
        death = Death(int(at.removeprefix("put:")), moment)
        real = S3Store.put

        def put(*arguments: Any) -> None:
            death.at(real, *arguments)

        S3Store.put = put  # type: ignore[method-assign] # that is the point
    else:

        def step(name: str) -> None:
            if name == at:
                os.kill(os.getpid(), signal.SIGKILL)

        move.move = partial(move.move, step=step)
    sys.exit(run(["migrate", source]))


if __name__ == "__main__":
    main(*sys.argv[1:])
