"""The fake model as an engine of the real `dspy.LM`."""

from __future__ import annotations

import re
from typing import Any, Self

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage

from fake_model import answer, tokens

_FIELD = re.compile(r"\[\[ ## (\w+) ## \]\]\n(.*?)(?=\n*\[\[ ## |\n*Respond with|\Z)", re.DOTALL)
_ASKED = re.compile(r"`\[\[ ## (\w+) ## \]\]`")


class FakeEngine:
    """Fills in whatever output fields DSPy's chat adapter asks for."""

    def complete(self, request: Request) -> Response:
        prompt = request.messages[-1].text or ""
        given = {name: text.strip() for name, text in _FIELD.findall(prompt)}
        context = [line for line in given.get("context", "").splitlines() if line.strip()]
        said = (
            answer(given.get("question", prompt), [re.sub(r"^\[\d+\] «|»$", "", c) for c in context])
            if context
            else answer(given.get("question", prompt))
        )
        wanted = [name for name in _ASKED.findall(prompt) if name != "completed"] or ["answer"]
        fields = {
            name: "It shares most words with the question." if name == "reasoning" else said
            for name in wanted
        }
        text = "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items())
        text += "\n\n[[ ## completed ## ]]"
        usage = Usage(
            input_tokens=tokens(prompt), output_tokens=tokens(text), total_tokens=tokens(prompt + " " + text)
        )
        message = Message.assistant([TextPart(text)])
        return Response(id=None, model="fake-1", message=message, finish_reason="stop", usage=usage)

    def close(self) -> None:
        """Nothing is open."""

    def dump_state(self) -> dict[str, Any]:
        return {}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Self:
        return cls()


def fake_lm() -> dspy.LM:
    """A language model of DSPy's that needs no service."""
    return dspy.LM("fake/fake-1", engine=FakeEngine(), cache=False)
