"""Backs up or restores, and kills itself with SIGKILL before or after the n-th call of something.

    python -m tests.backup.dying CALL NUMBER before|after < order.pickle

The order is a pickled (action, arguments, keyword arguments).
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import psycopg

from mlflow_platform.adapters.trees import FileTree
from mlflow_platform.backup import create, restore
from tests.dying import Death

#: What changes something outside of the process: a file appears, files go, a transaction ends.
CALLS: dict[str, tuple[Any, str]] = {
    "write": (Path, "replace"),
    "delete": (FileTree, "delete"),
    "commit": (psycopg.Connection, "commit"),
    "finish": (restore.loading, "finish"),
}


def main(call: str, number: str, moment: str) -> None:
    death = Death(int(number), moment)
    owner, name = CALLS[call]
    real = getattr(owner, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        return death.at(real, *args, **kwargs)

    setattr(owner, name, dying)
    action, args, kwargs = pickle.load(sys.stdin.buffer)  # noqa: S301 - of the test that started it
    {"create": create.create, "restore": restore.restore}[action](*args, **kwargs)
    print(death.calls)


if __name__ == "__main__":
    main(*sys.argv[1:])
