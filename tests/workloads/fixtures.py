"""The runner of `ran`, as a fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlflow_platform.local import Stack
from tests.workloads.ran import Workloads


@pytest.fixture(scope="session")
def workloads(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workloads]:
    """Programs against the shared stack; MLflow's own client looks at what they left."""
    import mlflow

    where = stack.endpoints()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in where.environment().items():
            patch.setenv(name, value)
        client = mlflow.MlflowClient(where.tracking_uri, where.tracking_uri)
        made = Workloads(stack, tmp_path_factory.mktemp("workloads"), client)
        yield made
        made.stop()
