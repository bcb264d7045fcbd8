"""A source that is a tracking server: read page by page through its REST API, written down as rows.

By the API come all values and ids. What it does not tell, stays: when a run was deleted, passwords, secrets.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from mlflow_platform.adapters.transfers import parallel
from mlflow_platform.errors import BadInput, Transient
from mlflow_platform.migrate import entities
from mlflow_platform.migrate.homes import DEFAULT_WORKSPACE
from mlflow_platform.migrate.proxy import Proxy
from mlflow_platform.migrate.report import Left
from mlflow_platform.migrate.staged import FILE, Staged, create, settle_ids

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

#: Metrics whose histories are asked for at once.
_WORKERS = 8
#: mlflow/tracing/constant.py, MLFLOW_ARTIFACT_LOCATION.
_LOCATION = "mlflow.artifactLocation"
#: mlflow/store/tracking/__init__.py: the server's own limits are as large or larger; traces 500 at most.
_PAGE, _TRACES, _METRICS, _SPANS = 1000, 100, 20_000, 10
#: What may be there, and cannot be asked for. A server that is to list label schemas makes one
#: (mlflow/store/tracking/sqlalchemy_store.py, `_ensure_default_label_schema`), and a source is only read.
_UNSEEN = ("label schemas", "deleted logged models that no run names")


def open_remote(
    address: str, work: Path, *, password: str | None = None, say: Callable[[str], None] = lambda _: None
) -> Staged:
    """Read a whole server. A login in the address is used; `password` where it has none.

    Raises `Transient` where it cannot be reached, `BadInput` where it is no MLflow server or refuses.
    """
    from mlflow.store.model_registry.rest_store import RestStore as Registry
    from mlflow.store.tracking.rest_store import RestStore as Tracking
    from mlflow.utils.rest_utils import MlflowHostCreds

    parts = urlsplit(address)
    user = unquote(parts.username) if parts.username else None
    secret = unquote(parts.password) if parts.password else password
    if user and not secret:
        raise BadInput(
            "the address names a user, and there is no password",
            remedy="set MLPLATFORM_SOURCE_PASSWORD to that user's",
        )
    host = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    # As MLflow's own clients find it, whose `requests` also knows the second.
    ca = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or os.environ.get("REQUESTS_CA_BUNDLE")
    credentials = MlflowHostCreds(host, username=user, password=secret, server_cert_path=ca)
    proxy = Proxy(host, user, secret, ca=ca)
    proxy.probe()  # MLflow's own client tries for minutes
    file = work / FILE
    create(file)
    with _reading(host):
        reading = _Reading(Tracking(lambda: credentials), Registry(lambda: credentials), file, say)
        reading.everything()
    with closing(sqlite3.connect(file)) as connection:
        settle_ids(connection, host)
    return Staged(host, file, proxied=lambda: proxy, left=reading.left, unseen=_UNSEEN)


@contextmanager
def _reading(host: str) -> Iterator[None]:
    """MLflow's errors as the platform's own."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        first = (str(error.message).splitlines() or ["it gives no reason"])[0][:300]
        status = error.get_http_status_code()
        if "Max retries exceeded" in first or "Connection" in first or "timed out" in first:
            raise Transient(f"{host} does not answer any more", remedy="run it again") from None
        if status in (401, 403) or "401" in first or "403" in first:
            raise BadInput(
                f"{host} refuses this login", remedy="give an administrator's: https://USER@HOST"
            ) from None
        raise BadInput(
            f"{host}: {first}", remedy="check that it is an MLflow server, and what its log says"
        ) from None


class _Reading:
    """Everything of one server into a staged database."""

    def __init__(self, tracking: Any, registry: Any, file: Path, say: Callable[[str], None]) -> None:
        self._tracking, self._registry, self._file, self._say = tracking, registry, file, say
        self.left: list[Left] = []

    def everything(self) -> None:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        # MLflow's own store writes traces and spans, whose ids the client gives.
        store = SqlAlchemyStore(f"sqlite:///{self._file}", self._file.parent.as_uri())
        try:
            with store.ManagedSessionMaker(read_only=False) as session:
                self._experiments(session)
            for experiment in self._found:
                self._say(f"reading experiment {experiment.name}")
                with store.ManagedSessionMaker(read_only=False) as session:
                    self._runs(session, experiment.experiment_id)
                    self._models(session, experiment.experiment_id)
                self._traces(store, experiment.experiment_id)
            with store.ManagedSessionMaker(read_only=False) as session:
                self._registered(session)
                self._finish(session)
        finally:
            store._dispose_engine()
        self._note()

    def _experiments(self, session: Session) -> None:
        from mlflow.entities import ViewType
        from mlflow.store.tracking.dbmodels import models as rows

        session.query(rows.SqlExperiment).delete()  # that the store has made: the server tells its own
        self._found = list(
            _pages(
                lambda token: self._tracking.search_experiments(
                    view_type=ViewType.ALL, max_results=_PAGE, page_token=token
                )
            )
        )
        for one in self._found:
            session.add(
                rows.SqlExperiment(
                    experiment_id=int(one.experiment_id),
                    name=one.name,
                    artifact_location=one.artifact_location,
                    lifecycle_stage="active",  # until its traces are written
                    creation_time=one.creation_time,
                    last_update_time=one.last_update_time,
                )
            )
            session.flush()
            for key, value in one.tags.items():
                session.add(rows.SqlExperimentTag(key=key, value=value, experiment_id=int(one.experiment_id)))

    def _runs(self, session: Session, experiment: str) -> None:
        from mlflow.entities import ViewType

        runs = _pages(
            lambda token: self._tracking.search_runs(
                [experiment], "", ViewType.ALL, max_results=_PAGE, page_token=token
            )
        )

        def metrics() -> Iterator[tuple[str, str]]:
            for run in runs:
                entities.add_run(session, int(experiment), run)
                yield from ((run.info.run_id, key) for key in run.data.metrics)

        for run, key, page in parallel(self._history, metrics(), _WORKERS):
            while True:
                entities.add_metrics(session, run, key, page)
                if not page.token:
                    break
                _, _, page = self._history((run, key), page.token)

    def _history(self, metric: tuple[str, str], token: str | None = None) -> tuple[str, str, Any]:
        """A run's id, a metric's key, and one page of its history: all of it may not fit into memory."""
        return *metric, self._tracking.get_metric_history(*metric, max_results=_METRICS, page_token=token)

    def _models(self, session: Session, experiment: str) -> None:
        found = _pages(
            lambda token: self._tracking.search_logged_models([experiment], max_results=100, page_token=token)
        )
        for one in _where_known(found):
            entities.add_model(session, int(experiment), one)

    def _traces(self, store: Any, experiment: str) -> None:
        from mlflow.store.tracking.dbmodels import models as rows

        found = _pages(
            lambda token: self._tracking.search_traces(
                locations=[experiment], max_results=_TRACES, page_token=token
            )
        )
        spans: list[Any] = []
        for info in _where_known(found):
            where = info.tags.pop(_LOCATION, None)
            store.start_trace(info)
            with store.ManagedSessionMaker(read_only=False) as session:  # which has set one of its own
                session.merge(rows.SqlTraceTag(request_id=info.trace_id, key=_LOCATION, value=where or ""))
            if info.tags.get("mlflow.trace.spansLocation") == "TRACKING_STORE":
                spans.append(info)
            if len(spans) == _SPANS:
                self._spans(store, experiment, spans)
                spans = []
        self._spans(store, experiment, spans)

    def _spans(self, store: Any, experiment: str, infos: list[Any]) -> None:
        from mlflow.store.tracking.dbmodels import models as rows

        if not infos:
            return
        for trace in self._tracking.batch_get_traces([info.trace_id for info in infos]):
            if trace.data.spans:
                store.log_spans(experiment, trace.data.spans)
        with store.ManagedSessionMaker(read_only=False) as session:
            for info in infos:  # whose times the spans have set anew, rounded otherwise
                session.query(rows.SqlTraceInfo).filter_by(request_id=info.trace_id).update(
                    {
                        "timestamp_ms": info.request_time,
                        "execution_time_ms": info.execution_duration,
                        "status": info.state.value,
                    }
                )

    def _registered(self, session: Session) -> None:
        self._say("reading registered models")
        found = _pages(
            lambda token: self._registry.search_registered_models(
                # Prompts are left out unless a filter names them (mlflow/store/model_registry).
                filter_string=None,
                max_results=_PAGE,
                page_token=token,
            )
        )
        prompts = _pages(
            lambda token: self._registry.search_registered_models(
                filter_string="tag.`mlflow.prompt.is_prompt` = 'true'", max_results=_PAGE, page_token=token
            )
        )
        seen: set[str] = set()
        for short in [*found, *prompts]:
            if short.name in seen:
                continue
            seen.add(short.name)
            one = self._registry.get_registered_model(short.name)
            entities.add_registered_model(session, one)
            self._versions(session, one.name, prompt=one._tags.get("mlflow.prompt.is_prompt") == "true")

    def _versions(self, session: Session, name: str, *, prompt: bool) -> None:
        # MLflow's filters know no escapes (mlflow/utils/search_utils.py, `_strip_quotes`).
        quote = '"' if "'" in name else "'"
        if quote in name:
            why = "a filter cannot name their model: rename it, in which both kinds of quotes are"
            self.left.append(Left("versions of a model", why, 1, [name]))
            return
        query = f"name = {quote}{name}{quote}" + (
            " and tag.`mlflow.prompt.is_prompt` = 'true'" if prompt else ""
        )
        for version in _pages(
            lambda token: self._registry.search_model_versions(query, max_results=_PAGE, page_token=token)
        ):
            number = int(version.version)
            location = self._registry.get_model_version_download_uri(name, str(number))
            entities.add_version(session, version, location)

    def _finish(self, session: Session) -> None:
        from mlflow.store.tracking.dbmodels import models as rows

        deleted = [int(e.experiment_id) for e in self._found if e.lifecycle_stage == "deleted"]
        session.query(rows.SqlExperiment).filter(rows.SqlExperiment.experiment_id.in_(deleted)).update(
            {"lifecycle_stage": "deleted"}
        )

    def _note(self) -> None:
        """What the server has, and no part of this reads. Servers that do not know it have none."""
        from mlflow.exceptions import MlflowException

        unread = "they are not read through the API; the source's database has them"
        sealed = "they are sealed with the source's key: enter them anew"
        for what, why, call in (
            ("what this login may not see", "it is no administrator's: take one that is", self._login),
            ("logins", "passwords and grants are not told: declare them", self._logins),
            ("workspaces", unread, self._workspaces),
            ("webhooks", "their secrets cannot be read: declare them (kind Webhook)", self._webhooks),
            ("gateway secrets", sealed, self._secrets),
            ("gateway endpoints", "they need the gateway's secrets: make them anew", self._endpoints),
            ("logged models", "runs name them, and they are not told: they are deleted", self._deleted),
            ("scorers", unread, self._each(self._scorers, "scorer_name")),
            ("review queues", unread, self._each(self._tracking.list_review_queues)),
            ("issues", unread, self._each(self._tracking.search_issues)),
            ("evaluation datasets", unread, self._datasets),
        ):
            try:
                names = call()
            except MlflowException as error:
                if error.get_http_status_code() == 403:
                    self.left.append(Left(what, "this login may not ask for them", 1))
                continue
            if names:
                self.left.append(Left(what, why, len(names), names[:1000]))

    def _login(self) -> list[str]:
        user = self._ask("/api/2.0/mlflow/users/current").get("user", {})
        return [] if user.get("is_admin", True) else [str(user.get("username"))]

    def _logins(self) -> list[str]:
        return [one["username"] for one in self._ask("/api/2.0/mlflow/users/list").get("users", ())]

    def _ask(self, path: str) -> dict[str, Any]:
        """What MLflow's auth app answers (mlflow/server/auth/routes.py)."""
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        answer = http_request(self._tracking.get_host_creds(), path, "GET")
        found: dict[str, Any] = verify_rest_response(answer, path).json()
        return found

    def _workspaces(self) -> list[str]:
        from mlflow.store.workspace.rest_store import RestWorkspaceStore

        if not self._tracking.supports_workspaces:  # which would answer 503, and be asked for minutes
            return []
        store = RestWorkspaceStore(self._tracking.get_host_creds)
        return [one.name for one in store.list_workspaces() if one.name != DEFAULT_WORKSPACE]

    def _webhooks(self) -> list[str]:
        return [one.name for one in _pages(lambda token: self._registry.list_webhooks(page_token=token))]

    def _secrets(self) -> list[str]:
        return [one.secret_name for one in self._tracking.list_secret_infos()]

    def _endpoints(self) -> list[str]:
        return [one.name or one.endpoint_id for one in self._tracking.list_gateway_endpoints()]

    def _scorers(self, experiment: str, page_token: str | None) -> Any:
        """All at once: MLflow has no pages of these."""
        return self._tracking.list_scorers(experiment), page_token

    def _deleted(self) -> list[str]:
        """No call tells of deleted logged models; runs still name those that they made or used."""
        with closing(sqlite3.connect(self._file)) as staged:
            return [
                own
                for (own,) in staged.execute(
                    "select distinct destination_id from inputs where destination_type in"
                    " ('MODEL_INPUT', 'MODEL_OUTPUT') and destination_id not in"
                    " (select model_id from logged_models) order by 1"
                )
            ]

    def _each(self, ask: Callable[..., Any], name: str = "name") -> Callable[[], list[str]]:
        """What a call says of each experiment, by the experiment's name."""

        def names() -> list[str]:
            return [
                f"{experiment.name}: {getattr(one, name)}"
                for experiment in self._found
                if experiment.lifecycle_stage == "active"
                for one in _pages(partial(_page, ask, experiment.experiment_id))
            ]

        return names

    def _datasets(self) -> list[str]:
        ids = [experiment.experiment_id for experiment in self._found]
        return [
            one.name
            for one in _pages(
                lambda token: self._tracking.search_datasets(ids, max_results=50, page_token=token)
            )
        ]


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """All that a call finds, page after page. It answers with a list that has a token, or with both."""
    token: str | None = None
    while True:
        page = ask(token)
        items, token = page if isinstance(page, tuple) else (page, getattr(page, "token", None))
        yield from items
        if not token:
            return


def _page(ask: Callable[..., Any], experiment: str, token: str | None) -> Any:
    return ask(experiment, page_token=token)


def _where_known(found: Iterator[Any]) -> Iterator[Any]:
    """Nothing where the server is too old to know of it."""
    from mlflow.exceptions import MlflowException

    try:
        yield from found
    except MlflowException as error:
        if error.error_code not in ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED") and "404" not in str(
            error.message
        ):
            raise
