"""Lists of a server that several kinds read, each fetched once a snapshot."""

from __future__ import annotations

from typing import Any

from mlflow_platform.kinds.base import Json, Snapshot, pages

#: mlflow/store/tracking/__init__.py: SEARCH_MAX_RESULTS_THRESHOLD, the largest page of a search.
MAX_EXPERIMENTS_A_PAGE = 50_000
#: The reserved experiment that holds the ledger: no document declares it, no kind shows it.
LEDGER_EXPERIMENT = "mlplatform-ledger"
#: Registered models with such names are locks of applies (`apply.lock`), shown by no kind.
LOCK_PREFIX = "mlplatform-lock-"


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


#: mlflow/prompt/constants.py: IS_PROMPT_TAG_KEY. MLflow keeps prompts as registered models with this tag,
#: and leaves those out of every search that does not ask for it.
PROMPT_TAG = "mlflow.prompt.is_prompt"
_PROMPTS = f"tags.`{PROMPT_TAG}` = 'true'"
#: mlflow/store/model_registry/__init__.py: SEARCH_REGISTERED_MODEL_MAX_RESULTS_THRESHOLD.
_MAX_MODELS_A_PAGE = 1000
#: A twentieth of SEARCH_MODEL_VERSION_MAX_RESULTS_THRESHOLD: versions of prompts hold their whole text.
_MAX_VERSIONS_A_PAGE = 10_000


def registered(snapshot: Snapshot, workspace: str, *, prompts: bool) -> list[Json]:
    """All registered models of a workspace, or all prompts (`name`, `description`, `tags`, `aliases`)."""
    params = {"max_results": _MAX_MODELS_A_PAGE, **({"filter": _PROMPTS} if prompts else {})}
    found = _all(snapshot, workspace, "registered-models/search", params, "registered_models")
    return [model for model in found if not model["name"].startswith(LOCK_PREFIX)]


def versions(
    snapshot: Snapshot, workspace: str, *, prompts: bool, name: str | None = None
) -> dict[str, list[Json]]:
    """All versions of the models, or the prompts, of a workspace, or of the one called `name`, by name
    (`version`, `source`, `run_id`, `description`, `tags`). MLflow leaves their aliases empty here; the
    models have them."""
    # From the oldest: what is added while pages are read comes last, and nothing is missed.
    params: dict[str, Any] = {
        "max_results": _MAX_VERSIONS_A_PAGE,
        "order_by": ["creation_timestamp ASC", "name ASC", "version_number ASC"],
    }
    filters = [_PROMPTS] if prompts else []
    # MLflow's grammar of filters has no escapes: a name with both quotes is found among all.
    quote = next((q for q in "'\"" if q not in (name or "")), "")
    if name is not None and quote:
        filters.append(f"name = {quote}{name}{quote}")
    if filters:
        params["filter"] = " AND ".join(filters)
    grouped: dict[str, list[Json]] = {}
    for version in _all(snapshot, workspace, "model-versions/search", params, "model_versions"):
        grouped.setdefault(version["name"], []).append(version)
    return grouped


def _all(snapshot: Snapshot, workspace: str, path: str, params: dict[str, Any], items: str) -> list[Json]:
    def page(token: str | None) -> Json:
        return snapshot.api.call(
            "GET",
            f"api/2.0/mlflow/{path}",
            params={**params, "page_token": token} if token else params,
            workspace=snapshot.header(workspace),
        )

    return snapshot.once(f"{path}:{params.get('filter')}:{workspace}", lambda: list(pages(page, items)))
