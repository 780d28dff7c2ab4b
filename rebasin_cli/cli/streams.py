"""stdin, stdout and stderr: documents and checkpoints that come and go through pipes; errors, warnings and notes.

This is the one place that writes text to stderr, all in one form. And terminals: what counts as one, whether it shows
colours, and rich's console for it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

from rebasin_cli import process
from rebasin_cli.errors import ContentError, RebasinError, SystemFailure, UsageError
from rebasin_cli.safe_text import block, in_ascii, printable, wrapped

if TYPE_CHECKING:
    from rich.console import Console

    from rebasin_cli.pipeline import Progress
    from rebasin_cli.pipeline.inputs import Source
    from rebasin_cli.report.document import RunDocument


PIPE = Path("-")
_LONGEST_LIST = 64 << 20  # bytes: paths of half a million checkpoints
_PIECE = 1 << 20  # characters written at once: a document may have millions


@contextmanager
def working() -> Iterator[ExitStack]:
    """What a command does once its options are known, with what it has to clean up: here signals are exceptions."""
    with process.signals_raised(), ExitStack() as cleanup:
        yield cleanup


class ClosedPipe(BaseException):
    """The reader of our stdout went away."""


class _Pipe:
    """stdout for bytes, telling a reader that went away from an error of the disk."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, data: bytes | memoryview) -> int:
        try:
            return self._stream.write(data)
        except BrokenPipeError:
            raise ClosedPipe from None

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            raise ClosedPipe from None


def print_payload(text: str) -> None:
    """Write to stdout all of it, or raise ClosedPipe."""
    need_stdout()
    process.end_waiting()
    raw: bytes | None
    try:
        raw = None
        if not text.isascii():
            text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a locale without UTF-8, or a file's name that is no text
        raw = text.encode("utf-8", "replace")  # which JSON and HTML are in any case
    try:
        if raw is not None:
            sys.stdout.buffer.write(raw)
        for at in range(0, len(text), _PIECE) if raw is None else ():
            sys.stdout.write(text[at : at + _PIECE])
        sys.stdout.flush()
    except BrokenPipeError:
        raise ClosedPipe from None


def need_stdout() -> None:
    """Refuse a command whose result is printed where stdout is closed (`>&-`).

    Raises:
        SystemFailure: it is.
    """
    if sys.stdout is None:
        raise SystemFailure(
            "stdout is closed, and the result is printed there", remedy="send it to a file, or to /dev/null"
        )


def binary_stdout() -> BinaryIO:
    """stdout as the place for a safetensors file (`-o -`).

    Raises:
        UsageError: it is a terminal.
    """
    need_stdout()
    if sys.stdout.isatty():
        raise UsageError("-o - would write a checkpoint to the terminal", remedy="pipe it on, or name a file with -o")
    return cast(BinaryIO, _Pipe(sys.stdout.buffer))


def output_of(output: Path | None) -> Path | BinaryIO | None:
    """What `-o` names."""
    return binary_stdout() if output == PIPE else output


def read_piped_document(usage: str) -> RunDocument:
    """The run document that the command before the pipe printed.

    Raises:
        UsageError: stdin is a terminal or empty.
        ContentError: what comes is no run document.
    """
    from rebasin_cli.report.codec import LONGEST, from_json, placed_in

    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("no checkpoints are named, and nothing is piped in", remedy=usage)
    data = sys.stdin.buffer.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise ContentError(
            f"more than {LONGEST >> 20} MiB came through the pipe, which is no run document", remedy=usage
        )
    if not data.strip():
        raise UsageError(
            "nothing came through the pipe: the command before the pipe failed",
            remedy=f"see its message above; or name the files: {usage}",
        )
    return placed_in(from_json(data.decode("utf-8", "replace"), "stdin"), Path.cwd())


def sources(paths: list[Path], cleanup: ExitStack, progress: Progress) -> list[Source]:
    """Inputs that can be opened; `-` is spooled to a temporary file that goes when `cleanup` closes.

    Raises:
        UsageError: two inputs are stdin, or nothing comes through it. RebasinError: the hub does not give one.
    """
    from rebasin_cli.pipeline.inputs import Source, named_source

    if sum(path == PIPE for path in paths) > 1:
        raise UsageError("only one input can be `-`", remedy="name a file for the other")
    return [Source(_spool(cleanup), PIPE) if path == PIPE else named_source(path, progress) for path in paths]


def many_sources(paths: list[Path], cleanup: ExitStack, progress: Progress) -> list[Source]:
    """The same, and all members of a file where `FILE:models.*` names them.

    Raises:
        UsageError: as `sources`. RebasinError: a file with members cannot be read, or has none.
    """
    from rebasin_cli.checkpoints.checkpoint import is_on_hub
    from rebasin_cli.checkpoints.members import expanded

    whole = [path == PIPE or is_on_hub(str(path)) for path in paths]
    named = [one for path, as_is in zip(paths, whole, strict=True) for one in ([path] if as_is else expanded(path))]
    return sources(named, cleanup, progress)


def listed_paths(listing: Path) -> list[Path]:
    """The paths of a list, one a line; `-` reads it from stdin. Empty lines are left out.

    Raises:
        UsageError: there is none in it. RebasinError: it cannot be read.
    """
    from rebasin_cli.files import read_text

    if listing == PIPE:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("--from - reads a list from stdin, and nothing is piped in", remedy="name a file")
        text = sys.stdin.buffer.read(_LONGEST_LIST).decode("utf-8", "surrogateescape")
    else:
        text = read_text(listing, _LONGEST_LIST, "a list of paths", "--from takes a text file with a path a line")
    paths = [Path(line) for line in text.splitlines() if line.strip()]
    if not paths:
        raise UsageError(f"--from {listing}: there is no path in it", remedy="a list has a path a line")
    return paths


def _spool(cleanup: ExitStack) -> Path:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("`-` reads a checkpoint from stdin, and nothing is piped in", remedy="name a file")
    from rebasin_cli.errors import system_failure

    folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="rebasin-"))
    spooled = Path(folder) / "stdin.safetensors"  # what a file is, its contents say
    try:
        with spooled.open("wb") as out:
            shutil.copyfileobj(sys.stdin.buffer, out, 1 << 20)
    except OSError as error:
        raise system_failure(error, spooled, "write") from error
    if spooled.stat().st_size == 0:
        raise UsageError(
            "nothing came through the pipe: the command before the pipe failed", remedy="see its message above"
        )
    return spooled


_VARIABLES = ("NO_COLOR", "FORCE_COLOR")
_CHOICES = {"always": ("FORCE_COLOR", "1"), "never": ("NO_COLOR", "1")}


@contextmanager
def colours_as_asked(arguments: Sequence[str]) -> Iterator[None]:
    """Carry out `--color always|never` by NO_COLOR and FORCE_COLOR, which every library here goes by.

    Read from the arguments, as wrong ones are told in colours, too.
    """
    before = {name: os.environ.get(name) for name in _VARIABLES}
    chosen = _CHOICES.get(_asked(arguments))
    if chosen is not None:
        for name in _VARIABLES:
            os.environ.pop(name, None)
        os.environ[chosen[0]] = chosen[1]
    try:
        yield
    finally:
        for name, value in before.items():
            if value is not None:
                os.environ[name] = value
            elif chosen is not None:
                os.environ.pop(name, None)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is one on which lines can be taken back."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def in_colours(stream: TextIO | None) -> bool:
    """Whether text on the stream is coloured: on a terminal, unless NO_COLOR or FORCE_COLOR say otherwise."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_terminal(stream)


def console(stream: TextIO) -> Console:
    """Rich's console, without any escapes where there are to be no colours."""
    from rich.console import Console

    if not in_colours(stream):
        return Console(file=stream, color_system=None)
    return Console(file=stream, color_system="auto" if is_terminal(stream) else "standard", force_terminal=True)


def _asked(arguments: Sequence[str]) -> str:
    for word, following in pairwise([*arguments, ""]):
        option, sign, value = word.partition("=")
        if option == "--color":
            return value if sign else following
    return ""


called: ContextVar[tuple[str, ...]] = ContextVar("called", default=())
"""What stands after `rebasin`."""


_RED, _YELLOW, _DIM = "1;31", "1;33", "2"
_LONGEST_TRACEBACK = 16_000  # characters; a deep recursion is told by its ends


def print_error(error: RebasinError) -> None:
    """What, where, and what to do next."""
    print_error_parts(error.what, error.where, error.remedy)


def print_error_parts(what: str, where: str = "", remedy: str = "") -> None:
    """`error: …`, `  where: …`, `  try:   …`; a part that is empty is left out."""
    lines = [_part("error:", what, _RED)]
    if where:
        lines.append(_part("  where:", where))
    if remedy:
        lines.append(_part("  try:  ", remedy))
    _say("\n".join(lines))


def print_warning(text: str) -> None:
    """Something that whoever reads the result must know."""
    _say(_part("warning:", text, _YELLOW))


def print_note(text: str) -> None:
    """Something worth saying that changes no figure."""
    _say(_part("note:", text, _DIM))


def print_traceback() -> None:
    """Where the exception that is handled came from, for `--debug`; indented, as its text may have lines of its own."""
    lines = printable(traceback.format_exc(), _LONGEST_TRACEBACK).rstrip().split("\n")
    _say("\n".join(f"    {line}" for line in lines))


def _part(label: str, text: str, colour: str = "") -> str:
    """A label and its text, wrapped at words on a terminal; a command between backticks stays whole."""
    painted = f"\x1b[{colour}m{label}\x1b[0m" if colour and in_colours(sys.stderr) else label
    text = block(text)
    if not (sys.stderr.encoding or "ascii").lower().startswith("utf"):
        text = in_ascii(text)
    if sys.stderr.isatty():
        text = _wrapped(text, " " * (len(label) + 1))
    return f"{painted} {text}"


def _wrapped(text: str, margin: str) -> str:
    """Lines no longer than the terminal is wide; those that go on from another stand below its text."""
    columns = console(sys.stderr).width
    lines = []
    for number, line in enumerate(text.split("\n")):
        own = line[: len(line) - len(line.lstrip(" -"))] if number else ""
        indent = " " * len(own) if number else margin
        lines.append(own + f"\n{indent}".join(wrapped(line[len(own) :], columns - len(indent))))
    return "\n".join(lines)


def _say(text: str) -> None:
    process.end_waiting()
    with suppress(OSError):  # nobody listens to stderr any more; the exit code still tells
        print(text, file=sys.stderr, flush=True)
