"""Lists of a server that several kinds read, each fetched once a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow_platform.errors import Rejected
from mlflow_platform.kinds.base import Json, Snapshot, pages

#: mlflow/store/tracking/__init__.py: SEARCH_MAX_RESULTS_THRESHOLD, the largest page of a search.
MAX_EXPERIMENTS_A_PAGE = 50_000
#: The reserved experiment that holds the ledger: no document declares it, no kind shows it.
LEDGER_EXPERIMENT = "mlplatform-ledger"
#: Registered models with such names are locks of applies (`apply.lock`), shown by no kind.
LOCK_PREFIX = "mlplatform-lock-"


def experiments(snapshot: Snapshot, workspace: str) -> list[Json]:
    """All experiments of a workspace as MLflow gives them (`experiment_id`, `name`, `lifecycle_stage`,
    `tags`, ...), soft-deleted ones too. One request per 50,000, or one for each of `snapshot.only`."""

    def fetch() -> list[Json]:
        if snapshot.only is not None:
            names = sorted({*snapshot.only, LEDGER_EXPERIMENT})
            path, query = "api/2.0/mlflow/experiments/get-by-name", "experiment_name"
            return _single(snapshot, workspace, path, query, names, "experiment")

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


#: What MLflow says of a name that it does not have, or could not have (a model's with a slash).
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
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
    if snapshot.only is not None:
        path, names = "api/2.0/mlflow/registered-models/get", sorted(snapshot.only)
        single = snapshot.once(
            f"models:{workspace}",
            lambda: _single(snapshot, workspace, path, "name", names, "registered_model"),
        )
        return [m for m in single if prompts == _is_prompt(m) and not m["name"].startswith(LOCK_PREFIX)]
    params = {"max_results": _MAX_MODELS_A_PAGE, **({"filter": _PROMPTS} if prompts else {})}
    found = _all(snapshot, workspace, "registered-models/search", params, "registered_models")
    return [model for model in found if not model["name"].startswith(LOCK_PREFIX)]


def versions(
    snapshot: Snapshot, workspace: str, *, prompts: bool, name: str | None = None
) -> dict[str, list[Json]]:
    """All versions of the models, or the prompts, of a workspace, or of the one called `name`, by name
    (`version`, `source`, `run_id`, `description`, `tags`). MLflow leaves their aliases empty here; the
    models have them."""
    if name is None and snapshot.only is not None:
        of_each = [versions(snapshot, workspace, prompts=prompts, name=n) for n in sorted(snapshot.only)]
        return {n: found for each in of_each for n, found in each.items() if n in snapshot.only}
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


def _is_prompt(model: Json) -> bool:
    return any(t["key"] == PROMPT_TAG and t.get("value") == "true" for t in model.get("tags") or ())


def _single(
    snapshot: Snapshot, workspace: str, path: str, query: str, names: Sequence[str], item: str
) -> list[Json]:
    """The objects of these names, each asked for by itself; those that are not there are left out."""
    found = []
    for name in names:
        try:
            answer = snapshot.api.call(
                "GET", path, params={query: name}, workspace=snapshot.header(workspace)
            )
        except Rejected as error:
            if error.code not in _ABSENT:
                raise
        else:
            found.append(answer[item])
    return found


def _all(snapshot: Snapshot, workspace: str, path: str, params: dict[str, Any], items: str) -> list[Json]:
    def page(token: str | None) -> Json:
        return snapshot.api.call(
            "GET",
            f"api/2.0/mlflow/{path}",
            params={**params, "page_token": token} if token else params,
            workspace=snapshot.header(workspace),
        )

    return snapshot.once(f"{path}:{params.get('filter')}:{workspace}", lambda: list(pages(page, items)))
