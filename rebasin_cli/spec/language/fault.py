"""One thing that is wrong: with a spec by itself, or between a spec and a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from rebasin_cli.spec.language.permutation_spec import Line


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, the line of the spec where it is, and what to do about it.

    Attributes:
        line: 0 if no line of the spec is to blame.
        key: the tensor without a line, if that is the fault; unlisted: no line matches its key.
        absent: the line that matches no tensor, if that is the fault.
    """

    what: str
    line: int = 0
    remedy: str = ""
    key: str = ""
    unlisted: bool = False
    absent: Line | None = None
