"""Migrates by the command, and kills itself with SIGKILL at a step, or at the n-th copy.

python -m tests.migrate.dying copy:N|STEP before|after SOURCE
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from typing import Any

from mlflow_platform.cli.root import run
from mlflow_platform.migrate import artifacts, move
from tests.dying import Death


def main(at: str, moment: str, source: str) -> None:
    if at.startswith("copy:"):
        death = Death(int(at.removeprefix("copy:")), moment)
        real = artifacts._copy

        def copy(*arguments: Any) -> None:
            death.at(real, *arguments)

        artifacts._copy = copy
    else:

        def step(name: str) -> None:
            if name == at:
                os.kill(os.getpid(), signal.SIGKILL)

        move.move = partial(move.move, step=step)
    sys.exit(run(["migrate", source]))


if __name__ == "__main__":
    main(*sys.argv[1:])
