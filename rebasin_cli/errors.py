"""Every failure that a user can cause, as a value: what happened, where, and what to do next.

One base class, raised anywhere and caught in the CLI alone. The class decides the exit code,
so that a code is a property of the kind of failure and not of the place that noticed it.
"""

from __future__ import annotations


class RebasinError(Exception):
    """A failure with an answer.

    Args:
        what: the facts, both sides of them, with numbers.
        where: tensor and axis, file and line, dim; empty if ``what`` says it all.
        remedy: what the user can do next; empty only if there is nothing to do.
    """

    exit_code = 3

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"where: {self.where}")
        if self.remedy:
            lines.append(f"try:   {self.remedy}")
        return "\n".join(lines)


class GateError(RebasinError):
    """A gate or a check that the user asked for did not pass (exit code 1)."""

    exit_code = 1


class UsageError(RebasinError):
    """The call cannot be carried out as it was written (exit code 2)."""

    exit_code = 2


class ContentError(RebasinError):
    """Checkpoints, spec or data do not fit or are not acceptable (exit code 3)."""

    exit_code = 3


class SystemFailure(RebasinError):  # noqa: N818  (SystemError is a builtin of another meaning)
    """The system could not read or write what was asked for (exit code 4)."""

    exit_code = 4
