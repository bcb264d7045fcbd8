"""The fake model as a chat model of LangChain's, and a retriever of what it knows."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.retrievers import BaseRetriever

from fake_model import FACTS, answer, ranked, tokens


class FakeChatModel(BaseChatModel):
    """Answers the last message, from the context before it if there is one: lines that start with `- `."""

    model: str = "fake-1"
    temperature: float = 0.0
    max_tokens: int = 100

    @property
    def _llm_type(self) -> str:
        return "fake"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens}

    def _get_invocation_params(self, stop: list[str] | None = None, **more: Any) -> dict[str, Any]:
        return {**self._identifying_params, "stop": stop, **more}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> ChatResult:
        prompt = "\n".join(str(m.content) for m in messages)
        context = [line[2:] for line in prompt.splitlines() if line.startswith("- ")]
        said = answer(str(messages[-1].content), context) if context else answer(str(messages[-1].content))
        used = {"input_tokens": tokens(prompt), "output_tokens": tokens(said)}
        message = AIMessage(said, usage_metadata={**used, "total_tokens": sum(used.values())})
        return ChatResult(generations=[ChatGeneration(message=message)])


class FactRetriever(BaseRetriever):
    """Finds the `k` facts that are most like a question."""

    k: int = 3

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        best = ranked(query, FACTS)[: self.k]
        return [Document(text, metadata={"score": round(score, 3)}) for score, text in best]
