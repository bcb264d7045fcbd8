"""LangChain and LangGraph: a callback handler that traces, counts tokens and times every call."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler

from mlflow_platform.client.tracer import CHAT_USAGE, MODEL, document
from mlflow_platform.client.tracker import MLflowTracker

#: What stands for a prompt or completion that is not to be logged.
HIDDEN = "(not logged)"


class MLflowCallbackHandler(BaseCallbackHandler):  # type: ignore[misc] # LangChain's types are not installed
    """Pass it as `config={"callbacks": [handler]}`.

    Every chain, node, model call, tool and retrieval is a span; each model call logs `prompt_tokens`,
    `completion_tokens`, `total_tokens` and `latency_seconds` to the tracker's current run, at a step that
    counts the calls. `agent` (tier, brand, KPI, ...) becomes tags of that run and attributes of every root
    span. `log_prompts=False` keeps texts off the server, and leaves numbers and the types of exceptions.
    Never raises.
    """

    # Callbacks in the caller's own thread and task: there the tracker's current run is known.
    run_inline = True

    def __init__(
        self,
        tracker: MLflowTracker,
        *,
        agent: Mapping[str, Any] | None = None,
        log_prompts: bool = True,
    ) -> None:
        self.tracker = tracker
        self._session = tracker.session
        self._agent = {f"agent_{k}": str(v) for k, v in (agent or {}).items()}
        self._log_prompts = log_prompts
        self._lock = threading.Lock()
        self._open: dict[UUID, Any] = {}
        self._began: dict[UUID, float] = {}
        self._calls: dict[str | None, int] = {}

    # What is off LangChain need not call: spans that are, and with tracking off too, models as well.

    @property
    def ignore_chain(self) -> bool:
        return not self._session.tracing

    @property
    def ignore_agent(self) -> bool:  # tools, in LangChain's words
        return not self._session.tracing

    @property
    def ignore_retriever(self) -> bool:
        return not self._session.tracing

    @property
    def ignore_llm(self) -> bool:
        return not self._session.tracing and self.tracker._idle

    ignore_chat_model = ignore_llm

    # What starts

    def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: UUID, **more: Any) -> None:
        self._start(run_id, more, _name(serialized, more, "chain"), "CHAIN", self._text(inputs))

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **more: Any) -> None:
        asked = [[{"role": m.type, "content": m.content} for m in batch] for batch in messages]
        self._start_model(run_id, more, _name(serialized, more, "chat model"), "CHAT_MODEL", asked)

    def on_llm_start(self, serialized: Any, prompts: list[str], *, run_id: UUID, **more: Any) -> None:
        self._start_model(run_id, more, _name(serialized, more, "llm"), "LLM", prompts)

    def on_tool_start(self, serialized: Any, input_str: str, *, run_id: UUID, **more: Any) -> None:
        asked = more.get("inputs") or input_str
        self._start(run_id, more, _name(serialized, more, "tool"), "TOOL", self._text(asked))

    def on_retriever_start(self, serialized: Any, query: str, *, run_id: UUID, **more: Any) -> None:
        asked = {"query": self._text(query)}
        self._start(run_id, more, _name(serialized, more, "retriever"), "RETRIEVER", asked)

    # What ends

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        self._end(run_id, self._text(outputs))

    def on_tool_end(self, output: Any, *, run_id: UUID, **_: Any) -> None:
        self._end(run_id, self._text(getattr(output, "content", output)))

    def on_retriever_end(self, documents: Sequence[Any], *, run_id: UUID, **_: Any) -> None:
        found = [
            document({"text": d.page_content if self._log_prompts else HIDDEN, "metadata": d.metadata}, rank)
            for rank, d in enumerate(documents, 1)
        ]
        self._end(run_id, found)

    def on_llm_end(self, response: Any, *, run_id: UUID, **_: Any) -> None:
        self._session.guard.call("end of a model call", self._end_model, response, run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._end(run_id, None, error)

    on_tool_error = on_retriever_error = on_llm_error = on_chain_error

    def _start_model(self, run_id: UUID, more: dict[str, Any], name: str, kind: str, asked: Any) -> None:
        settings = more.get("invocation_params") or {}
        metadata = more.get("metadata") or {}
        model = metadata.get("ls_model_name") or settings.get("model") or settings.get("model_name")
        kept = {
            k: settings[k]
            for k in ("temperature", "max_tokens", "top_p", "stop")
            if settings.get(k) is not None
        }
        attributes = {**kept, **({MODEL: model, "model": model} if model else {})}
        self._start(run_id, more, name, kind, {"messages": self._text(asked)}, attributes)
        self._began[run_id] = time.perf_counter()

    def _end_model(self, response: Any, run_id: UUID) -> None:
        seconds = time.perf_counter() - self._began.pop(run_id)
        usage = token_usage(response)
        texts = [g.text for batch in response.generations for g in batch]
        attributes: dict[str, Any] = {**usage, "latency_seconds": seconds}
        if len(usage) == 3:
            attributes[CHAT_USAGE] = dict(
                zip(("input_tokens", "output_tokens", "total_tokens"), usage.values(), strict=True)
            )
        self._end(run_id, self._text(texts[0] if len(texts) == 1 else texts), attributes=attributes)
        run = self.tracker.run_id
        with self._lock:
            step = self._calls[run] = self._calls.get(run, 0) + 1
        if step == 1 and self._agent:
            self.tracker.set_tags(self._agent)
        self.tracker.log_metrics({**usage, "latency_seconds": seconds}, step)

    def _start(
        self,
        run_id: UUID,
        more: dict[str, Any],
        name: str,
        kind: str,
        inputs: Any,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        if self._session.tracing:
            above = more.get("parent_run_id")
            self._session.guard.call(
                "start of a span", self._start_span, run_id, above, name, kind, inputs, attributes or {}
            )

    def _start_span(
        self,
        run_id: UUID,
        above: UUID | None,
        name: str,
        kind: str,
        inputs: Any,
        attributes: Mapping[str, Any],
    ) -> None:
        connection = self._session.open()
        if connection is None:
            return
        parent = self._open.get(above) if above else None
        parent = parent or connection.mlflow.get_current_active_span()
        placed: dict[str, Any] = {"parent_span": parent}
        if parent is None:
            run = self.tracker.run_id
            placed = {"experiment_id": connection.experiment_id, "tags": self._agent}
            placed["metadata"] = {"mlflow.sourceRun": run} if run else {}
            attributes = {**attributes, **self._agent}
        self._open[run_id] = connection.mlflow.start_span_no_context(
            name, kind, inputs=inputs, attributes=dict(attributes), **placed
        )

    def _end(
        self,
        run_id: UUID,
        outputs: Any,
        error: BaseException | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self._began.pop(run_id, None)
        span = self._open.pop(run_id, None)
        if span is not None:
            self._session.guard.call(
                "end of a span", _end_span, span, outputs, error, attributes, self._log_prompts
            )

    def _text(self, value: Any) -> Any:
        return value if self._log_prompts else HIDDEN


def _end_span(
    span: Any,
    outputs: Any,
    error: BaseException | None,
    attributes: Mapping[str, Any] | None,
    log_prompts: bool,
) -> None:
    if error is not None and not log_prompts:
        # Providers repeat in their errors what they were asked.
        span.set_attribute("exception.type", type(error).__name__)
    elif isinstance(error, Exception):
        span.record_exception(error)
    span.end(outputs=outputs, attributes=dict(attributes or {}), status="ERROR" if error else "OK")


def token_usage(response: Any) -> dict[str, int]:
    """`prompt_tokens`, `completion_tokens`, `total_tokens` of a result: as its messages tell, else as the
    provider did; empty where neither does."""
    names = {
        "prompt_tokens": "input_tokens",
        "completion_tokens": "output_tokens",
        "total_tokens": "total_tokens",
    }
    messages = [getattr(g, "message", None) for batch in response.generations for g in batch]
    told = [usage for m in messages if (usage := getattr(m, "usage_metadata", None))]
    if told:
        return {ours: sum(int(usage[theirs]) for usage in told) for ours, theirs in names.items()}
    provider = (response.llm_output or {}).get("token_usage") or {}
    return {name: int(provider[name]) for name in names if provider.get(name) is not None}


def _name(serialized: Any, more: Mapping[str, Any], default: str) -> str:
    serialized = serialized or {}
    return str(more.get("name") or serialized.get("name") or (serialized.get("id") or [default])[-1])
