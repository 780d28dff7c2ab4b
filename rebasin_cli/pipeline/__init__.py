"""The story of every command, told once: paths, headers, spec, permutation, tensors, files, document.

Knows neither a terminal nor an option parser. What a user should see meanwhile goes to a `Progress`, which is here
because everything in the room has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rebasin_cli.report.document import InvocationRecord

Advance = Callable[[int], None]


class Progress:
    """Keeps every warning for the document; the command line shows them by overriding the other methods.

    Attributes:
        document_file: where the run document was written; None if it was not.
    """

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.document_file: Path | None = None

    def warn(self, text: str) -> None:
        """Something that whoever reads the result must know; said once."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.show_warning(text)

    def invocations(self) -> tuple[InvocationRecord, ...]:
        """What was called, for the document; none where nobody typed a command."""
        return ()

    def show_warning(self, text: str) -> None:
        """Show a warning now."""

    def remark(self, text: str) -> None:
        """Something worth saying that changes no figure."""

    def judged(self, text: str, *, bad: bool) -> None:
        """What a result is worth: a warning where it is bad, and a remark where it is not."""
        if bad:
            self.warn(text)
        else:
            self.remark(text)

    def detail(self, text: str) -> None:
        """Something for those who asked for more."""

    def reached(self, what: str, value: float) -> None:
        """What the stretch of work has come to so far: an objective, a loss."""

    @contextmanager
    def phase(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        """A stretch of work; `total` in bytes or steps, None if it cannot be known.

        Yields a function that is called with how much was done.
        """
        yield lambda amount: None
