"""What a user sees of a run: progress and warnings meanwhile, the summary or the document at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rebasin_cli import waiting
from rebasin_cli.cli.invocation import current
from rebasin_cli.cli.messages import print_note, print_warning
from rebasin_cli.cli.streams import need_stdout, print_payload
from rebasin_cli.pipeline.progress import Advance, Progress
from rebasin_cli.report.document import InvocationRecord, RunDocument


class Session(Progress):
    """Progress on the command line."""

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: bool = False, shows: bool = False) -> None:
        """`shows`: what the command prints is all that it does.

        Raises:
            SystemFailure: it would print to a stdout that is closed.
        """
        super().__init__()
        if json or shows:
            need_stdout()
        self.json, self.quiet, self.verbose = json, quiet, verbose

    def invocations(self) -> tuple[InvocationRecord, ...]:
        return current()

    def show_warning(self, text: str) -> None:
        if not self.quiet:
            print_warning(text)

    def remark(self, text: str) -> None:
        if not self.quiet:
            print_note(text)

    def detail(self, text: str) -> None:
        if self.verbose and not self.quiet:
            print_note(text)

    @contextmanager
    def phase(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        """A progress bar with the time left, on a terminal only."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda amount: None
            return
        waiting.end()
        from rebasin_cli.report.bars import progress_bar

        with progress_bar(title, total, unit) as advance:
            yield advance

    def finish(self, document: RunDocument, *, payload: bool = True) -> None:
        """Print the result: a summary on a terminal, the document in a pipe; nothing if stdout is taken or closed."""
        if not payload or sys.stdout is None:
            return
        if self.json or not sys.stdout.isatty():
            from rebasin_cli.report.codec import to_json

            print_payload(to_json(document))
            return
        from rich.console import Console

        from rebasin_cli.report.console import print_summary

        waiting.end()
        print_summary(Console(), document, verbose=self.verbose)
