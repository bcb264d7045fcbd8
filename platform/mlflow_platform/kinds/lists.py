"""Lists of a server that several kinds read, each fetched once a snapshot."""

from __future__ import annotations

from typing import Any

from mlflow_platform.kinds.base import Json, Snapshot, pages

#: mlflow/store/tracking/__init__.py: SEARCH_MAX_RESULTS_THRESHOLD, the largest page of a search.
MAX_EXPERIMENTS_A_PAGE = 50_000
#: The reserved experiment that holds the ledger: no document declares it, no kind shows it.
LEDGER_EXPERIMENT = "mlplatform-ledger"


def experiments(snapshot: Snapshot, workspace: str) -> list[Json]:
    """All experiments of a workspace as MLflow gives them (`experiment_id`, `name`, `lifecycle_stage`,
    `tags`, ...), soft-deleted ones too. One request per 50,000."""

    def fetch() -> list[Json]:
        def page(token: str | None) -> Json:
            body: dict[str, Any] = {"max_results": MAX_EXPERIMENTS_A_PAGE, "view_type": "ALL"}
            if token:
                body["page_token"] = token
            return snapshot.api.call(
                "POST",
                "api/2.0/mlflow/experiments/search",
                json=body,
                workspace=snapshot.header(workspace),
            )

        return list(pages(page, "experiments"))

    return snapshot.once(f"experiments:{workspace}", fetch)
