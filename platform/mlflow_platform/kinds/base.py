"""What a kind is: translate documents, observe in bulk, turn a change into calls."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from mlflow_platform.errors import Problem
from mlflow_platform.model.base import Document
from mlflow_platform.plan.objects import Change, Desired, Observed, Path, Traits

T = TypeVar("T")
Json = dict[str, Any]


class Api(Protocol):
    """A tracking server's REST interface (`adapters.mlflow` is the real one).

    `path` is everything after the host, such as `api/2.0/mlflow/experiments/search`. Answers are the
    decoded JSON object. Raises `Rejected` (with `.code`, MLflow's error_code), `Transient`, `Fatal`.
    """

    @property
    def sent(self) -> Mapping[str, int]:
        """Requests sent so far; `reads` and `writes` add up to all."""

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        workspace: str | None = None,
        idempotent: bool = True,
    ) -> Json:
        """One request. `idempotent=False`: not sent again when it is unknown whether it arrived."""


class Snapshot:
    """One look at a server: every list is fetched at most once and shared by the kinds.

    `workspaces` are the names to look into: `("default",)` where workspaces are off. `complete`: also what
    no document asks for, such as the versions of all models; for an import. `only`: of experiments, models
    and prompts those with these names, each asked for by itself; for a few among thousands.
    """

    def __init__(
        self,
        api: Api,
        workspaces: Sequence[str] = ("default",),
        *,
        workspaces_on: bool = False,
        complete: bool = False,
        only: frozenset[str] | None = None,
    ) -> None:
        self.api = api
        self.only = only
        self.workspaces = tuple(workspaces)
        self.workspaces_on = workspaces_on
        self.complete = complete
        self._lock = threading.Lock()
        self._making: dict[str, threading.RLock] = {}
        self._made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], T]) -> T:
        """The value of `make()`, called at most once a snapshot for each `name`.

        Different values may be made at the same time, and one from another.
        """
        with self._lock:
            making = self._making.setdefault(name, threading.RLock())
        with making:
            if name not in self._made:
                self._made[name] = make()
            value: T = self._made[name]
            return value

    def header(self, workspace: str) -> str | None:
        """The workspace to send with a call: none where workspaces are off."""
        return workspace if self.workspaces_on else None


class Kind(ABC):
    """One kind of object. Stateless: everything it needs comes as arguments."""

    name: ClassVar[str]
    traits: ClassVar[Traits]
    ledgered: ClassVar[bool] = False
    """The object cannot bear a tag: its mark, and HMACs of its secrets, live in the ledger."""
    needs: ClassVar[Literal["", "auth", "workspaces"]] = ""
    """What a server must have switched on to offer objects of the kind."""

    @abstractmethod
    def desired(self, document: Document) -> Iterator[Desired]:
        """The objects that a document declares; pure."""

    @abstractmethod
    def observe(self, snapshot: Snapshot, wanted: Sequence[Desired]) -> Iterable[Observed]:
        """All objects of the kind on the server, in O(pages) reads, whatever the number wanted.

        `wanted` tells only in which form to give what has several (an alias by key or by number).
        For a ledgered kind the engine adds the marks and the HMACs.
        """

    @abstractmethod
    def execute(self, api: Api, change: Change, secrets: Mapping[Path, str], header: str | None) -> None:
        """Carry out one change. Safe to repeat after a kill at any point, once planned again."""

    def review(self, change: Change, secrets: Mapping[Path, str]) -> Problem | None:
        """Why a planned change would be refused, as far as it tells by itself; None where nothing does.

        Pure, so that a plan can say it; `execute` says the same before its first call.
        """
        return None

    @abstractmethod
    def document(self, observed: Observed) -> Json | None:
        """The document that declares an observed object as it is; None for what is not declarable
        (MLflow's own objects). The plan of the result is empty."""

    def left_out(self, observed: Observed) -> str | None:
        """What `document` leaves out of a document, or that it gives none, in a sentence; None where
        nothing is lost that a person put there."""
        return None


def pages(fetch: Callable[[str | None], Json], items: str) -> Iterator[Json]:
    """All items of a paged list: `fetch(page_token)` until an answer has no `next_page_token`."""
    token: str | None = None
    while True:
        answer = fetch(token)
        yield from answer.get(items) or ()
        token = answer.get("next_page_token") or None
        if token is None:
            return
