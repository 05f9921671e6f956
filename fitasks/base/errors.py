"""The errors that users see: one base class, and the exit status that goes with each.

A message says what is wrong and where, what was found, what would be right, and the command that mends it.
"""

from __future__ import annotations

from typing import ClassVar


class FitasksError(Exception):
    """Anything that fitasks itself reports; `str(error)` is the whole message, ready to print."""

    exit_status: ClassVar[int] = 2

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  remedy: {self.remedy}" if self.remedy else self.message


class ConfigError(FitasksError):
    """kernels.yaml is unusable; carries every mistake found, one line each, in file order."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class EnvironmentProblem(FitasksError):
    """The toolkit, the serving interpreter or the file system does not allow the work."""


class BadInput(EnvironmentProblem):
    """What somebody else wrote (a model, a trace, a log, an answer) isn't what it should be; names file and place."""


class NoCompiler(EnvironmentProblem):
    """There is no host compiler: nothing can be compiled, and what is compiled can be loaded all the same."""


class Unbuildable(EnvironmentProblem):
    """FlashInfer can be asked, and load what is there ahead of time, but it can't build where these paths lead.

    `again`: it could, and would do so at each start of a server.
    """

    def __init__(self, message: str, *, remedy: str = "", again: bool = False) -> None:
        super().__init__(message, remedy=remedy)
        self.again = again


class KernelFailure(FitasksError):
    """One kernel failed to compile or to check; the others go on.

    `lasting` is the error, in one line, that the same compile would end with again; "" where it might not.
    """

    exit_status = 1

    def __init__(self, message: str, *, remedy: str = "", lasting: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.lasting = lasting


class Silent(FitasksError):
    """A task that found something wrong and has said it all: exit status 1, and not a word more."""

    exit_status = 1

    def __init__(self) -> None:
        super().__init__("")
