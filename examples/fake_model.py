"""A small deterministic language model: no service, no weights, the same answer every time.

It knows a handful of facts, answers with the one that shares most words with the question, and can be told to
be worse. `fake_dspy` and `fake_langchain` put it behind the real interfaces of DSPy and LangChain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

FACTS = (
    "PROV is an ontology about where things come from.",
    "In PROV an activity is something that occurs over a period of time.",
    "In PROV an agent bears responsibility for an activity.",
    "FOAF is an ontology about people and whom they know.",
    "In FOAF a person is a kind of agent.",
    "In FOAF the property knows joins two people.",
    "SKOS is an ontology about concepts and how they are ordered.",
    "In SKOS the property broader leads to a more general concept.",
    "Dublin Core describes documents: title, creator and date.",
    "OWL describes classes and their properties in logic.",
)
_FILLING = frozenset(
    re.findall(r"\w+", "a about an and are by does for how in is it of or the to what which who")
)


def words(text: str) -> frozenset[str]:
    """The words of a text that mean something."""
    return frozenset(re.findall(r"[a-z]+", text.lower())) - _FILLING


def overlap(question: str, text: str) -> float:
    """How alike two texts are, 0 to 1: words in common over words in either."""
    asked, found = words(question), words(text)
    return len(asked & found) / len(asked | found) if asked | found else 0.0


def ranked(question: str, texts: Iterable[str]) -> list[tuple[float, str]]:
    """Texts with their likeness to a question, best first."""
    return sorted(((overlap(question, t), t) for t in texts), key=lambda pair: (-pair[0], pair[1]))


def answer(question: str, context: Iterable[str] = FACTS) -> str:
    """The fact that answers a question best; that it does not know where none has a word of it."""
    score, text = ranked(question, context)[0]
    return text if score else "I do not know."


def tokens(text: str) -> int:
    """A token is a word here."""
    return len(text.split())
