"""Every error a user can meet: what is wrong, where, and what to do about it.

The type decides what happens next (see `docs/decisions/0002-error-types.md`):

========================  ======================================  =========
type                      what the engine does                    exit code
========================  ======================================  =========
`BadInput`                stops before the first write            1
`Rejected`                stalls that object, the others go on    1
`Blocked`                 waits for another object                1
`Transient`               retries with jitter, in one budget      1
`Fatal`                   stops                                   1
`BrakeStopped`            stops before the first write            3
========================  ======================================  =========

Exit code 2 is not an error: `plan` and `drift` use it for "there are differences".
A mistake on the command line itself (unknown option) is 64, as in BSD's sysexits.h (EX_USAGE).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_DIFFERENCES = 2
EXIT_BRAKE = 3
EXIT_USAGE = 64
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A place in a file; `line` and `column` count from 1, 0 means the whole file."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: what, where, what to do. Many are collected and reported at once."""

    what: str
    remedy: str = ""
    where: Location | None = None

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n    {self.remedy}" if self.remedy else text


class PlatformError(Exception):
    """Base of all errors meant for the user. Never holds a secret."""

    exit_code = EXIT_ERROR

    def __init__(self, what: str, *, remedy: str = "", where: Location | None = None) -> None:
        super().__init__(what)
        self.problem = Problem(what, remedy, where)

    @property
    def problems(self) -> Sequence[Problem]:
        return (self.problem,)

    def __str__(self) -> str:
        return "\n".join(str(p) for p in self.problems)


class BadInput(PlatformError):
    """The user's own input is wrong; nothing was written."""


class BadDocuments(BadInput):
    """One or more mistakes in documents, all of them, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(f"{len(problems)} problem(s) in the documents")
        self._all = tuple(sorted(problems, key=lambda p: p.where or Location("")))

    @property
    def problems(self) -> Sequence[Problem]:
        return self._all


class Rejected(PlatformError):
    """The server refused this object; repeating the same request will not help.

    `code` is MLflow's error_code (`RESOURCE_DOES_NOT_EXIST`, ...), empty where there is none.
    """

    def __init__(self, what: str, *, code: str = "", remedy: str = "", where: Location | None = None) -> None:
        super().__init__(what, remedy=remedy, where=where)
        self.code = code


class Blocked(PlatformError):
    """The object waits for another one, which is missing or has failed."""


class Transient(PlatformError):
    """A passing fault (time-out, 429, 5xx, connection lost); may succeed when repeated.

    `retry_after` is in seconds, as the server asked. `uncertain`: the request may have been carried out,
    so the object must be looked at again before the request is repeated.
    """

    def __init__(
        self, what: str, *, retry_after: float | None = None, uncertain: bool = False, remedy: str = ""
    ) -> None:
        super().__init__(what, remedy=remedy)
        self.retry_after = retry_after
        self.uncertain = uncertain


class Fatal(PlatformError):
    """Nothing can go on (wrong credentials, wrong server)."""


class BrakeStopped(PlatformError):
    """The plan destroys more than the brake allows; nothing was written. `hash` names the plan."""

    exit_code = EXIT_BRAKE

    def __init__(self, what: str, *, plan_hash: str, remedy: str = "") -> None:
        super().__init__(what, remedy=remedy)
        self.hash = plan_hash
