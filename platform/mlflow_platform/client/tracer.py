"""`MLflowTracer`: spans of a pipeline, its retrievals, calls of language models and quality gates."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from mlflow_platform.client.config import MLflowConfig
from mlflow_platform.client.guard import Guard
from mlflow_platform.client.session import Session
from mlflow_platform.client.tracker import MLflowTracker

# mlflow/tracing/constant.py, SpanAttributeKey
CHAT_USAGE = "mlflow.chat.tokenUsage"
MODEL = "mlflow.llm.model"


class Traced:
    """A span as a context manager; the outermost one is a trace. Exceptions are recorded and go on."""

    def __init__(
        self,
        tracer: MLflowTracer | None,
        name: str,
        span_type: str,
        inputs: Any,
        attributes: Mapping[str, Any],
    ) -> None:
        self._tracer = tracer
        self._asked = (name, span_type, inputs, attributes)
        self._context: Any = None
        self._span: Any = None
        self.began = 0.0

    def __enter__(self) -> Self:
        if self._tracer is not None:
            self.began = time.perf_counter()
            self._tracer.guard.call("start of a span", self._start, self._tracer)
        return self

    def _start(self, tracer: MLflowTracer) -> None:
        connection = tracer.session.open()
        if connection is None:
            return
        from mlflow.entities.trace_location import MlflowExperimentLocation

        name, span_type, inputs, attributes = self._asked
        root = connection.mlflow.get_current_active_span() is None
        placed: dict[str, Any] = {}
        if root:
            placed["trace_destination"] = MlflowExperimentLocation(connection.experiment_id)
            if run_id := tracer.run_id():
                placed["run_id"] = run_id
        self._context = connection.mlflow.start_span(name, span_type, attributes=dict(attributes), **placed)
        self._span = self._context.__enter__()
        if inputs is not None:
            self._span.set_inputs(inputs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._context is not None and self._tracer is not None:
            self._tracer.guard.call("end of a span", self._end, kind, error, trace)

    def _end(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._finish()
        finally:
            try:
                self._context.__exit__(kind, error, trace)
            except BaseException as raised:
                if raised is not error:
                    raise

    def _finish(self) -> None:
        """What a kind of span adds before it ends."""

    def set_inputs(self, inputs: Any) -> None:
        """What goes in, as JSON values."""
        self._do("inputs", lambda span: span.set_inputs(inputs))

    def set_outputs(self, outputs: Any) -> None:
        """What comes out, as JSON values."""
        self._do("outputs", lambda span: span.set_outputs(outputs))

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Anything else of note."""
        self._do("attributes", lambda span: span.set_attributes(dict(attributes)))

    @property
    def trace_id(self) -> str | None:
        """The trace's id on the server; None where nothing is traced."""
        return getattr(self._span, "trace_id", None)

    def _do(self, what: str, change: Any) -> None:
        if self._span is not None and self._tracer is not None:
            self._tracer.guard.call(f"{what} of a span", change, self._span)


class Retrieval(Traced):
    """A search: its query, the documents by rank with their scores, their reranking, the final context.

    A document is a text, or a mapping with `text` (or `page_content`), and optionally `score`, `id` and
    whatever else is to be seen.
    """

    def found(self, documents: Sequence[str | Mapping[str, Any]]) -> None:
        """The documents, best first."""

        def note(span: Any) -> None:
            span.set_outputs(_ranked(documents))
            span.set_attributes({"documents": len(documents), "scores": _scores(documents)})

        self._do("documents", note)

    def reranked(self, documents: Sequence[str | Mapping[str, Any]], *, model: str | None = None) -> None:
        """The documents in their new order, as a span of its own."""
        if self._tracer is None:
            return
        with self._tracer.span("rerank", "RERANKER", attributes={"model": model} if model else None) as span:
            span._do("documents", lambda live: live.set_outputs(_ranked(documents)))

    def context(self, text: str) -> None:
        """What of it the language model is given."""
        self._do(
            "context", lambda span: span.set_attributes({"context": text, "context_characters": len(text)})
        )


class LLMCall(Traced):
    """A call of a language model; `latency_seconds` is the time from entry to exit."""

    def answered(
        self,
        completion: Any,
        *,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        total_tokens: int | None = None,
    ) -> None:
        """What it answered, and at which cost. The total is the sum unless it is given."""

        def note(span: Any) -> None:
            span.set_outputs(completion)
            total = total_tokens
            if total is None and prompt_tokens is not None and completion_tokens is not None:
                total = prompt_tokens + completion_tokens
            parts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
            counted = {k: v for k, v in {**parts, "total_tokens": total}.items() if v is not None}
            span.set_attributes(counted)
            if len(counted) == len(parts) + 1:
                usage = ("input_tokens", "output_tokens", "total_tokens")
                span.set_attributes({CHAT_USAGE: dict(zip(usage, counted.values(), strict=True))})

        self._do("answer", note)

    def _finish(self) -> None:
        self.set_attributes({"latency_seconds": time.perf_counter() - self.began})


class QualityGates(Traced):
    """Checks of a result. `passed` is whether all have so far; `failures` counts the others."""

    failures = 0

    def __enter__(self) -> Self:
        self._gates: list[dict[str, Any]] = []
        self.failures = 0
        return super().__enter__()

    def gate(
        self, name: str, passed: bool, *, value: Any = None, threshold: Any = None, reason: str | None = None
    ) -> bool:
        """Note a check; returns `passed`, so that it may stand in an `if`."""
        if not passed:
            self.failures += 1
        if self._tracer is not None:
            more = {"value": value, "threshold": threshold, "reason": reason}
            kept = {k: v for k, v in more.items() if v is not None}
            self._gates.append({"name": name, "passed": bool(passed), **kept})
        return bool(passed)

    @property
    def passed(self) -> bool:
        return self.failures == 0

    def _finish(self) -> None:
        self.set_outputs({"passed": self.passed, "gate_failures": self.failures, "gates": self._gates})
        self.set_attributes({"gate_failures": self.failures})


class MLflowTracer:
    """Makes spans; the traces belong to the tracker's current run, where there is a tracker.

    Without one, the settings are the environment's, or those of `config`. Switched off
    (`MLFLOW_ENABLE_TRACING=false`), spans do nothing and MLflow is not imported.
    """

    def __init__(self, tracker: MLflowTracker | None = None, config: MLflowConfig | None = None) -> None:
        self.session = tracker.session if tracker is not None and config is None else Session(config)
        self.guard: Guard = self.session.guard
        self._tracker = tracker
        self._off = not self.session.tracing

    def run_id(self) -> str | None:
        """The run that traces belong to."""
        return self._tracker.run_id if self._tracker is not None else None

    def span(
        self,
        name: str,
        span_type: str = "UNKNOWN",
        *,
        inputs: Any = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Traced:
        """A span. MLflow's types include CHAIN, AGENT, TOOL, LLM, RETRIEVER, PARSER, TASK and UNKNOWN."""
        if self._off:
            return _OFF
        return Traced(self, name, span_type, inputs, attributes or {})

    def trace_retrieval(self, query: str, *, name: str = "retrieval", **attributes: Any) -> Retrieval:
        """A search for `query`; attributes may be `top_k`, `strategy` and the like."""
        if self._off:
            return _OFF_RETRIEVAL
        return Retrieval(self, name, "RETRIEVER", {"query": query}, attributes)

    def trace_llm_call(self, model: str, prompt: Any, *, name: str = "llm", **attributes: Any) -> LLMCall:
        """A call of `model`; attributes may be `temperature`, `max_tokens` and the like."""
        if self._off:
            return _OFF_LLM_CALL
        return LLMCall(self, name, "LLM", {"prompt": prompt}, {MODEL: model, "model": model, **attributes})

    def trace_quality_gates(self, *, name: str = "quality_gates", subject: Any = None) -> QualityGates:
        """Checks of `subject`."""
        if self._off:
            return QualityGates(None, name, "EVALUATOR", None, {})
        return QualityGates(self, name, "EVALUATOR", None if subject is None else {"subject": subject}, {})


def document(found: str | Mapping[str, Any], rank: int) -> dict[str, Any]:
    """A document as MLflow's page shows it (mlflow/entities/document.py), with rank and score as metadata."""
    if isinstance(found, str):
        found = {"text": found}
    metadata = {k: v for k, v in found.items() if k not in ("text", "page_content", "id", "metadata")}
    metadata = {"rank": rank, **metadata, **found.get("metadata", {})}
    text = found.get("text", found.get("page_content", ""))
    named = {"id": str(found["id"])} if "id" in found else {}
    return {"page_content": str(text), "metadata": metadata, **named}


def _ranked(documents: Sequence[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [document(d, rank) for rank, d in enumerate(documents, 1)]


def _scores(documents: Sequence[str | Mapping[str, Any]]) -> list[Any]:
    return [d.get("score") for d in documents if not isinstance(d, str)]


#: What stands for every span where tracing is off: they hold nothing, so that all may share them.
_OFF = Traced(None, "", "", None, {})
_OFF_RETRIEVAL = Retrieval(None, "", "", None, {})
_OFF_LLM_CALL = LLMCall(None, "", "", None, {})
