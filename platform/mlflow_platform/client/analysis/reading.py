"""Runs and traces from a tracking server, a page at a time, as plain records."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow_platform.client.analysis import filters
from mlflow_platform.client.analysis.filters import Entity
from mlflow_platform.errors import BadInput, PlatformError, Rejected, Transient

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Entries a request asks for. MLflow allows 50,000 runs (SEARCH_MAX_RESULTS_THRESHOLD of
#: `mlflow.store.tracking`); smaller pages keep the memory flat, on both sides.
_RUNS, _TRACES, _EXPERIMENTS = 1000, 500, 1000
#: Metric histories are asked for one by one; so many at a time.
_AT_ONCE = 8
#: In this order a plain name is looked for.
ENTITIES: tuple[Entity, ...] = ("params", "tags", "metrics")
#: Tags that MLflow writes for itself (`mlflow.utils.mlflow_tags`).
SYSTEM_TAGS = "mlflow."
_RUN_ID = re.compile(r"[0-9a-f]{32}\Z")
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")


@dataclass(frozen=True)
class Experiment:
    """`updated` is in milliseconds since 1970, as in all of MLflow."""

    id: str
    name: str
    updated: int | None


@dataclass(frozen=True)
class Run:
    """A run with its latest metrics. Times are in milliseconds since 1970."""

    id: str
    name: str
    experiment: str
    status: str
    start: int | None
    end: int | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it runs."""
        return None if self.start is None or self.end is None else (self.end - self.start) / 1000

    def value(self, key: str) -> str | float | None:
        """The param, tag or metric of that name, in this order."""
        for values in (self.params, self.tags, self.metrics):
            if key in values:
                return values[key]
        return None


@dataclass(frozen=True)
class Trace:
    """What is known of a trace without its spans. `start` in milliseconds since 1970, `milliseconds` long."""

    id: str
    experiment: str
    status: str
    start: int
    milliseconds: int | None
    tags: Mapping[str, str]
    request: str | None
    response: str | None
    run: str | None


@contextmanager
def answered() -> Iterator[None]:
    """MLflow's exceptions as errors for the user."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise _understood(error) from error


def _understood(error: Any) -> PlatformError:
    text, code = str(error).strip(), str(error.error_code)
    status = error.get_http_status_code()
    if "failed with exception" in text or "Max retries" in text:  # MLflow's words for no answer at all
        return Transient(
            "the tracking server does not answer", remedy="check its address; `mlplatform doctor` says more"
        )
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED") or status in (401, 403) or "status 401" in text:
        return Rejected(
            f"the tracking server refuses: {text}",
            code=code,
            remedy="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a login that may read this",
        )
    if code in _MISSING:
        return BadInput(f"MLflow says: {text}", remedy="correct the name, the id or the filter")
    return Transient(
        f"the tracking server failed: {text}", remedy="try again; look into its logs if it persists"
    )


def experiment(client: MlflowClient, one: str) -> Experiment:
    """An experiment by its id."""
    with answered():
        found = client.get_experiment(one)
    return Experiment(found.experiment_id, found.name, found.last_update_time)


def experiments(client: MlflowClient, names: Sequence[str] = ()) -> list[Experiment]:
    """Active experiments by name or id, in the order given; all without names. `BadInput` for others."""
    found = [
        Experiment(e.experiment_id, e.name, e.last_update_time)
        for e in _pages(lambda token: client.search_experiments(max_results=_EXPERIMENTS, page_token=token))
    ]
    if not names:
        return found
    by_name, by_id = {e.name: e for e in found}, {e.id: e for e in found}
    wanted = {}
    for name in names:
        one = by_name.get(name) or by_id.get(name)
        if one is None:
            near = _near(name, by_name)
            raise BadInput(f"there is no experiment {name!r}", remedy=near or "see `mlplatform runs list`")
        wanted[one.id] = one
    return list(wanted.values())


def runs(
    client: MlflowClient,
    of: Sequence[Experiment],
    *,
    where: str = "",
    order: Sequence[str] = (),
    limit: int | None = None,
) -> Iterator[Run]:
    """Runs of experiments by a filter of MLflow's language, in pages of 1,000, so that memory stays flat."""
    names = {e.id: e.name for e in of}
    if not names or limit == 0:
        return
    size = min(_RUNS, limit or _RUNS)

    def page(token: str | None) -> Any:
        return client.search_runs(
            list(names), where, max_results=size, order_by=list(order), page_token=token
        )

    for found in itertools.islice(_pages(page), limit):
        yield _run(found, names[found.info.experiment_id])


def by_ids(client: MlflowClient, ids: Sequence[str]) -> list[Run]:
    """Runs by their ids, in the order given. Raises `BadInput` for one that is not there."""
    found = []
    for one in ids:
        if not _RUN_ID.match(one):
            raise BadInput(
                f"{one!r} is no run id", remedy="give the 32 characters that `mlplatform runs list` prints"
            )
        with answered():
            found.append(client.get_run(one))
    with answered():
        names = {i: client.get_experiment(i).name for i in {r.info.experiment_id for r in found}}
    return [_run(r, names[r.info.experiment_id]) for r in found]


def plain_filter(
    client: MlflowClient, of: Sequence[Experiment], conditions: Sequence[filters.Condition]
) -> str:
    """Conditions on plain names as a filter: each name is looked for among params, tags and metrics.

    Raises `BadInput` for a name that no run of the experiments has.
    """
    return filters.both(*(filters.clause(_entity(client, of, c), c) for c in conditions))


def _entity(client: MlflowClient, of: Sequence[Experiment], wanted: filters.Condition) -> Entity:
    found = [e for e in ENTITIES if _any(client, of, filters.has(e, wanted.key))]
    numeric = wanted.operator in (">", ">=", "<", "<=")
    if numeric and "metrics" in found:
        return "metrics"
    if found:
        return found[0]
    known = {k for r in runs(client, of, limit=200) for d in (r.params, r.tags, r.metrics) for k in d}
    near = _near(wanted.key, [k for k in sorted(known) if not k.startswith(SYSTEM_TAGS)])
    raise BadInput(
        f"no run here has a param, tag or metric called {wanted.key!r}", remedy=near or "correct the name"
    )


def _any(client: MlflowClient, of: Sequence[Experiment], where: str) -> bool:
    return next(runs(client, of, where=where, limit=1), None) is not None


def best(
    client: MlflowClient, of: Sequence[Experiment], metric: str, *, least: bool = False, where: str = ""
) -> Run:
    """The `leader`; raises `BadInput` where there is none."""
    found = leader(client, of, metric, least=least, where=where)
    if found is None:
        raise BadInput(
            f"no run here has a value of the metric {metric!r}", remedy="correct the name or the filter"
        )
    return found


def leader(
    client: MlflowClient, of: Sequence[Experiment], metric: str, *, least: bool = False, where: str = ""
) -> Run | None:
    """The run with the largest value of a metric, or the least; of equals, the one that started first.

    NaN is never best. None where no run has a value.
    """
    clauses = filters.both(where, filters.has("metrics", metric))
    order = (filters.order("metrics", metric, descending=not least), "attributes.start_time ASC")
    for run in runs(client, of, where=clauses, order=order):
        if run.metrics.get(metric, float("nan")) == run.metrics.get(metric):  # NaN differs from itself
            return run
    return None


@dataclass(frozen=True)
class Point:
    """One logged value. `timestamp` in milliseconds since 1970."""

    run: str
    key: str
    step: int
    timestamp: int
    value: float


def history(client: MlflowClient, of: Iterable[Run], keys: Sequence[str] | None = None) -> Iterator[Point]:
    """All logged values of the metrics (of those in `keys`), run by run, steps in order."""

    def points(wanted: tuple[Run, str]) -> list[Point]:
        run, key = wanted
        found = client.get_metric_history(run.id, key)
        found.sort(key=lambda m: (m.step, m.timestamp))
        return [Point(run.id, key, m.step, m.timestamp, m.value) for m in found]

    wanted = ((r, k) for r in of for k in sorted(r.metrics) if keys is None or k in keys)
    with ThreadPoolExecutor(_AT_ONCE) as pool, answered():
        while batch := list(itertools.islice(wanted, 4 * _AT_ONCE)):
            for found in pool.map(points, batch):
                yield from found


def traces(
    client: MlflowClient,
    of: Sequence[Experiment],
    *,
    where: str = "",
    order: Sequence[str] = ("timestamp_ms DESC",),
    limit: int | None = None,
) -> Iterator[Trace]:
    """Traces of experiments by a filter of MLflow's language, without their spans, in pages."""
    names = {e.id: e.name for e in of}
    if not names or limit == 0:
        return
    size = min(_TRACES, limit or _TRACES)

    def page(token: str | None) -> Any:
        return client.search_traces(
            locations=list(names),
            filter_string=where or None,
            max_results=size,
            order_by=list(order),
            page_token=token,
            include_spans=False,
        )

    for found in itertools.islice(_pages(page), limit):
        info = found.info
        yield Trace(
            info.trace_id,
            names.get(info.experiment_id, info.experiment_id),
            str(getattr(info.state, "value", info.state)),
            info.request_time,
            info.execution_duration,
            {k: v for k, v in info.tags.items() if not k.startswith(SYSTEM_TAGS)},
            info.request_preview,
            info.response_preview,
            # mlflow.tracing.constant.TraceMetadataKey.SOURCE_RUN
            info.trace_metadata.get("mlflow.sourceRun"),
        )


def when(milliseconds: int | None) -> str | None:
    """A time of MLflow's in UTC, to the second; the number itself where that is no year of ours, as when a
    program has given nanoseconds."""
    from datetime import UTC, datetime

    if milliseconds is None:
        return None
    try:
        return f"{datetime.fromtimestamp(milliseconds // 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"


def _pages(page: Any) -> Iterator[Any]:
    token = None
    while True:
        with answered():
            found = page(token)
        yield from found
        token = found.token
        if not token:
            return


def _run(found: Any, experiment: str) -> Run:
    info, data = found.info, found.data
    return Run(
        info.run_id,
        info.run_name or "",
        experiment,
        str(info.status),
        info.start_time,
        info.end_time,
        data.params,
        data.metrics,
        data.tags,
    )


def _near(name: str, valid: Iterable[str]) -> str:
    import difflib

    found = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean {found[0]!r}?" if found else ""
