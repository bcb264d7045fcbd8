"""From records to calls of the tracking server: one function an `op`.

Every call may be a repetition, as a shipper that was killed does not know what it had sent. Most have no
second effect; where one would, or where the server answers a repetition with an error, it is told apart here.

A call that fails raises: `Transient` and its kinds to be repeated, `Rejected` when the record itself is
refused (`faults.understand`).
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mlflow_platform.client.batches import PARENT_TAG, Batch
from mlflow_platform.client.faults import distrust_pages, understand
from mlflow_platform.client.ids import ID_TAG, Ids, is_placeholder
from mlflow_platform.client.spool import Record, Spool, append_line
from mlflow_platform.client.uploads import Uploads
from mlflow_platform.errors import Rejected, Transient

#: The tag of a run that counts its records in quarantine.
REJECTED_TAG = "mlplatform.rejected"
_LOG_BATCH = "/api/2.0/mlflow/runs/log-batch"
#: What each record of a run is refused for that was deleted, or whose experiment was (`_check_run_is_active`
#: of MLflow's stores). Quotes alone would not do: refusals quote what was logged.
_DELETED = re.compile(r"(\w+: )?The (run|experiment) \S+ must be in (the )?'active' ")
_SOURCE_RUN = "mlflow.sourceRun"  # mlflow/tracing/constant.py, TraceMetadataKey.SOURCE_RUN


class Delivery:
    """Brings records to the server that MLflow knows as `uri`."""

    def __init__(self, spool: Spool, uri: str) -> None:
        from mlflow.store.tracking.rest_store import RestStore
        from mlflow.tracking._tracking_service.utils import _get_store

        self._spool = spool
        self._store: Any = _get_store(uri)
        self.remote = isinstance(self._store, RestStore)
        if self.remote:
            distrust_pages()
        self.ids = Ids(spool.ids)
        #: Whether the server takes our ids; unknown until it has created something.
        self._platform = False
        self._uploads = Uploads(spool.blobs, self._store, self.ids, uri)
        self._rejected: dict[str, int] = {}

    def deliver(self, records: Sequence[Record]) -> None:
        """Send records of one op and one run, experiment or trace: several only of `log` and `log_spans`."""
        first = records[0]
        with self._understood(), _in_workspace(first.get("w")):
            if first["op"] == "log":
                batch = Batch()
                batch.takes(first)
                for record in records[1:]:
                    batch.add(record)
                self._log(first["run"], batch)
            elif first["op"] == "log_spans":
                self._log_spans(records)
            elif (call := _OPS.get(first["op"])) is not None:
                call(self, first)
            else:
                raise Rejected(f"there is no operation {first['op']!r}: was it logged by a newer version?")

    def put_away(self, record: Record, error: Exception) -> None:
        """Keep a record that the server refuses, and mark its run."""
        append_line(self._spool.quarantine, {"time": time.time(), "error": str(error), "record": record})
        run = record.get("run")
        if run is None:
            return
        self._rejected[run] = count = self._rejected.get(run, 0) + 1
        # Where the run itself is what is refused there is nothing to mark.
        with contextlib.suppress(Exception):
            from mlflow.entities import RunTag

            self._store.set_tag(self.ids.real(run), RunTag(REJECTED_TAG, str(count)))

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            understood = understand(error, remote=self.remote)
            if understood is error:
                raise
            raise understood from error

    # Runs

    def _create_run(self, r: Record) -> None:
        from mlflow.entities import RunTag, ViewType

        run, experiment = r["run"], self._experiment(r["experiment"])

        def find() -> str | None:
            found = self._store.search_runs(
                [experiment], f"tags.`{ID_TAG}` = '{run}'", ViewType.ALL, 1, None, None
            )
            return found[0].info.run_id if found else None

        def create() -> str:
            tags = [RunTag(k, self.ids.real(v) if k == PARENT_TAG else v) for k, v in r["tags"]]
            made = self._store.create_run(
                experiment, r["user"], r["start"], [*tags, RunTag(ID_TAG, run)], r["name"]
            )
            return str(made.info.run_id)

        self._create(run, find, create)

    def _create(self, local: str, find: Callable[[], str | None], create: Callable[[], str]) -> None:
        """Create something once, on any server."""
        if self.ids.knows(local):
            return
        real = None if self._platform or self.ids.trying(local) else find()
        if real is None:
            real = create()
        if real == local:
            self._platform = True
        else:
            self.ids.map(local, real)

    def _update_run(self, r: Record) -> None:
        self._store.update_run_info(self.ids.real(r["run"]), r["status"], r["end"], r["name"])
        if r["status"] is not None and r["end"] is not None:
            (self._spool.runs / f"{r['run']}.json").unlink(missing_ok=True)

    def _log(self, run: str, batch: Batch) -> None:
        for part in batch.parts():
            self._log_part(run, part)

    def _log_part(self, run: str, batch: Batch) -> None:
        try:
            with self._understood():
                (self._post_batch if self.remote else self._store_batch)(self.ids.real(run), batch)
        except Rejected as error:
            if len(batch) == 1 or error.code == "RESOURCE_DOES_NOT_EXIST" or _DELETED.match(str(error)):
                self.put_away(batch.record(run), error)
                return
            for half in batch.halves():
                self._log_part(run, half)

    def _post_batch(self, run: str, batch: Batch) -> None:
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        self._store._validate_workspace_support_if_specified()
        answer = http_request(
            self._store.get_host_creds(),
            _LOG_BATCH,
            "POST",
            extra_headers={"Content-Type": "application/json"},
            data=batch.request(run, self.ids.real),
        )
        verify_rest_response(answer, _LOG_BATCH)

    def _store_batch(self, run: str, batch: Batch) -> None:
        from mlflow.entities import Metric, Param, RunTag

        real = self.ids.real
        self._store.log_batch(
            run,
            [
                Metric(*m[:4], *((real(m[4]) if m[4] else None, m[5], m[6]) if len(m) > 4 else ()))
                for m in batch.metrics
            ],
            [Param(*p) for p in batch.params.values()],
            [RunTag(k, real(v) if k == PARENT_TAG else v) for k, v in batch.tags.values()],
        )

    def _delete_tag(self, r: Record) -> None:
        try:
            with self._understood():
                self._store.delete_tag(self.ids.real(r["run"]), r["key"])
        except Rejected as error:
            if "No tag with name" not in str(error):
                raise

    def _delete_run(self, r: Record) -> None:
        self._store.delete_run(self.ids.real(r["run"]))
        (self._spool.runs / f"{r['run']}.json").unlink(missing_ok=True)

    def _restore_run(self, r: Record) -> None:
        self._store.restore_run(self.ids.real(r["run"]))

    def _log_inputs(self, r: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

        datasets = [
            DatasetInput(Dataset(**d["dataset"]), [InputTag(k, v) for k, v in d["tags"].items()])
            for d in r["datasets"]
        ]
        models = [LoggedModelInput(model_id=self.ids.real(m)) for m in r["models"]]
        self._store.log_inputs(self.ids.real(r["run"]), datasets or None, models or None)

    def _log_outputs(self, r: Record) -> None:
        from mlflow.entities import LoggedModelOutput

        run = self.ids.real(r["run"])
        outputs = [LoggedModelOutput(self.ids.real(m), step) for m, step in r["models"]]
        self._unless_done(
            lambda: self._store.log_outputs(run, outputs),
            lambda: (
                {(o.model_id, o.step) for o in outputs}
                <= {(o.model_id, o.step) for o in self._store.get_run(run).outputs.model_outputs}
            ),
        )

    def _record_model(self, r: Record) -> None:
        from mlflow.models import Model

        run, model = self.ids.real(r["run"]), Model.from_dict(r["info"])
        # The server adds to a list: a second time it would stand there twice.
        history = self._store.get_run(run).data.tags.get("mlflow.log-model.history", "[]")
        if model.model_uuid not in {m.get("model_uuid") for m in json.loads(history)}:
            self._store.record_logged_model(run, model)

    def _unless_done(self, call: Callable[[], None], done: Callable[[], bool]) -> None:
        """Call what the server refuses or fails the second time: then look whether it is as it should be."""
        try:
            with self._understood():
                call()
        except (Rejected, Transient) as error:
            if isinstance(error, Transient) and type(error) is Transient:
                raise  # no answer: looking would not get one either
            if not done():
                raise

    # Experiments

    def _experiment(self, experiment_id: str) -> str:
        real = self.ids.real(experiment_id)
        if is_placeholder(real):
            raise Rejected(f"its experiment could not be created (placeholder {real})")
        return real

    def _create_experiment(self, r: Record) -> None:
        from mlflow.entities import ExperimentTag

        if self.ids.knows(r["experiment"]):
            return
        found = self._store.get_experiment_by_name(r["name"])
        if found is None:
            try:
                with self._understood():
                    tags = [ExperimentTag(k, v) for k, v in r["tags"]]
                    made = self._store.create_experiment(r["name"], r["location"], tags)
                    self.ids.map(r["experiment"], made)
                    return
            except Rejected as error:
                if error.code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._store.get_experiment_by_name(r["name"])
        self.ids.map(r["experiment"], found.experiment_id)

    def _set_experiment_tag(self, r: Record) -> None:
        from mlflow.entities import ExperimentTag

        self._store.set_experiment_tag(self._experiment(r["experiment"]), ExperimentTag(r["key"], r["value"]))

    # Logged models

    def _create_model(self, r: Record) -> None:
        from mlflow.entities import LoggedModelParameter, LoggedModelTag

        model, experiment = r["model"], self._experiment(r["experiment"])

        def find() -> str | None:
            found = self._store.search_logged_models(
                [experiment], f"tags.`{ID_TAG}` = '{model}'", max_results=1
            )
            return found[0].model_id if found else None

        def create() -> str:
            made = self._store.create_logged_model(
                experiment_id=experiment,
                name=r["name"],
                source_run_id=self.ids.real(r["run"]) if r["run"] else None,
                tags=[*(LoggedModelTag(k, v) for k, v in r["tags"]), LoggedModelTag(ID_TAG, model)],
                params=[LoggedModelParameter(k, v) for k, v in r["params"]],
                model_type=r["type"],
            )
            return str(made.model_id)

        self._create(model, find, create)

    def _finalize_model(self, r: Record) -> None:
        from mlflow.entities import LoggedModelStatus

        self._store.finalize_logged_model(self.ids.real(r["model"]), LoggedModelStatus(r["status"]))

    def _set_model_tags(self, r: Record) -> None:
        from mlflow.entities import LoggedModelTag

        self._store.set_logged_model_tags(
            self.ids.real(r["model"]), [LoggedModelTag(k, v) for k, v in r["tags"]]
        )

    def _delete_model_tag(self, r: Record) -> None:
        try:
            with self._understood():
                self._store.delete_logged_model_tag(self.ids.real(r["model"]), r["key"])
        except Rejected as error:
            if "No tag with key" not in str(error):
                raise

    def _log_model_params(self, r: Record) -> None:
        from mlflow.entities import LoggedModelParameter

        model, params = self.ids.real(r["model"]), dict(r["params"])
        self._unless_done(
            lambda: self._store.log_logged_model_params(
                model, [LoggedModelParameter(k, v) for k, v in params.items()]
            ),
            lambda: params.items() <= self._store.get_logged_model(model).params.items(),
        )

    # Traces

    def _start_trace(self, r: Record) -> None:
        from mlflow.entities import TraceInfo

        info = dict(r["info"])
        location = info["trace_location"].get("mlflow_experiment")
        if location:
            location["experiment_id"] = self._experiment(location["experiment_id"])
        metadata = info.get("trace_metadata", {})
        if run := metadata.get(_SOURCE_RUN):
            metadata[_SOURCE_RUN] = self.ids.real(run)
        self._store.start_trace(TraceInfo.from_dict(info))

    def _log_spans(self, records: Sequence[Record]) -> None:
        from mlflow.entities import Span

        if self.remote and self._store._get_server_version(self._store.get_host_creds()) is None:
            # MLflow sends no spans then, and remembers for as long as this process lives that no answer came.
            self._store._get_server_version.cache_clear()
            raise Transient(
                "the server did not tell its version, which MLflow asks for before it sends spans"
            )
        spans = [Span.from_dict(s) for r in records for s in r["spans"]]
        self._store.log_spans(self._experiment(records[0]["experiment"]), spans)

    def _create_assessment(self, r: Record) -> None:
        from mlflow.entities import Assessment
        from mlflow.exceptions import MlflowException

        values = dict(r["assessment"])
        if metadata := values.get("metadata"):
            values["metadata"] = {k: self.ids.real(v) for k, v in metadata.items()}
        assessment = Assessment.from_dictionary(values)

        def done() -> bool:
            try:
                return self._store.get_assessment(r["trace"], assessment.assessment_id) is not None
            except MlflowException:
                return False

        self._unless_done(lambda: self._store.create_assessment(assessment), done)

    def _set_trace_tag(self, r: Record) -> None:
        self._store.set_trace_tag(r["trace"], r["key"], r["value"])

    def _delete_trace_tag(self, r: Record) -> None:
        try:
            with self._understood():
                self._store.delete_trace_tag(r["trace"], r["key"])
        except Rejected as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def _link_traces(self, r: Record) -> None:
        self._store.link_traces_to_run(r["traces"], self.ids.real(r["run"]))

    def _link_prompts(self, r: Record) -> None:
        from mlflow.entities.model_registry import PromptVersion

        self._store.link_prompts_to_trace(
            r["trace"], [PromptVersion(name, version, template="") for name, version in r["prompts"]]
        )


_OPS: dict[str, Callable[[Delivery, Record], None]] = {
    "create_run": Delivery._create_run,
    "update_run": Delivery._update_run,
    "delete_tag": Delivery._delete_tag,
    "delete_run": Delivery._delete_run,
    "restore_run": Delivery._restore_run,
    "log_inputs": Delivery._log_inputs,
    "log_outputs": Delivery._log_outputs,
    "record_model": Delivery._record_model,
    "create_experiment": Delivery._create_experiment,
    "set_experiment_tag": Delivery._set_experiment_tag,
    "create_model": Delivery._create_model,
    "finalize_model": Delivery._finalize_model,
    "set_model_tags": Delivery._set_model_tags,
    "delete_model_tag": Delivery._delete_model_tag,
    "log_model_params": Delivery._log_model_params,
    "start_trace": Delivery._start_trace,
    "create_assessment": Delivery._create_assessment,
    "set_trace_tag": Delivery._set_trace_tag,
    "delete_trace_tag": Delivery._delete_trace_tag,
    "link_traces": Delivery._link_traces,
    "link_prompts": Delivery._link_prompts,
    "artifact": lambda delivery, r: delivery._uploads.upload(r),
}


@contextlib.contextmanager
def _in_workspace(name: str | None) -> Iterator[None]:
    """Call as in the workspace that was active when the record was made."""
    if name is None:
        yield
        return
    from mlflow.utils.workspace_context import WorkspaceContext

    with WorkspaceContext(name):
        yield
