"""Traces through the spool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow.tracing.utils import generate_assessment_id
from mlflow.utils.validation import _validate_trace_tag

from mlflow_platform.client.sending import Sender, logs

_SPANS_LOCATION = "mlflow.trace.spansLocation"  # mlflow/tracing/constant.py, TraceTagKey.SPANS_LOCATION
_ARTIFACT_LOCATION = "mlflow.artifactLocation"  # mlflow/utils/mlflow_tags.py


class Traces(Sender):
    """Their part of the store."""

    def start_trace(self, trace_info: Any) -> Any:
        self._send("start_trace", trace=trace_info.trace_id, info=trace_info.to_dict())
        if self._spans_are_artifacts:
            location = {}
        else:
            location = {_SPANS_LOCATION: "TRACKING_STORE"}
        root = self._location(str(trace_info.experiment_id))
        location[_ARTIFACT_LOCATION] = f"{root}/traces/{trace_info.trace_id}/artifacts"
        # The exporter asks where spans and attachments go; without it, it would upload the spans.
        trace_info.tags.update({**location, **trace_info.tags})
        return trace_info

    def log_spans(
        self,
        location: str,
        spans: Sequence[Any],
        tracking_uri: str | None = None,  # noqa: ARG002 - MLflow's signature
    ) -> Any:
        if self._spans_are_artifacts:
            raise NotImplementedError
        self._send("log_spans", experiment=str(location), spans=[s.to_dict() for s in spans])
        return spans

    def create_assessment(self, assessment: Any) -> Any:
        # With an id of ours the database refuses a second one (delivery).
        assessment.assessment_id = assessment.assessment_id or generate_assessment_id()
        values = assessment.to_dictionary()
        self._send("create_assessment", trace=assessment.trace_id, assessment=values)
        return assessment

    @logs
    def set_trace_tag(self, trace_id: str, key: str, value: str) -> None:
        if self.strict:
            key, value = _validate_trace_tag(key, value)
        self._send("set_trace_tag", trace=trace_id, key=key, value=value)

    @logs
    def delete_trace_tag(self, trace_id: str, key: str) -> None:
        self._send("delete_trace_tag", trace=trace_id, key=key)

    @logs
    def link_traces_to_run(self, trace_ids: list[str], run_id: str) -> None:
        self._send("link_traces", traces=list(trace_ids), run=run_id)

    @logs
    def link_prompts_to_trace(self, trace_id: str, prompt_versions: Sequence[Any]) -> None:
        self._send("link_prompts", trace=trace_id, prompts=[[p.name, p.version] for p in prompt_versions])
