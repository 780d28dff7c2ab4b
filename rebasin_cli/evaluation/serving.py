"""A user's own evaluation that stays alive: it is started once, and asked point after point.

It reads one line of JSON for every checkpoint, `{"checkpoint": "/path"}`, and answers with one, `{"loss": 0.31}`, with
whatever other figures it has, or `{"error": "why"}`. What it prints to stderr goes to ours if it fails.
"""

from __future__ import annotations

import json
import os
import selectors
import shlex
import subprocess
import tempfile
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.commands import end_group, find_program, last_line, parse_scores
from rebasin_cli.evaluation.scores import Scores

_LONGEST = 1 << 20  # bytes of an answer
_REMEDY = 'it answers every line {"checkpoint": PATH} with one line of JSON, {"loss": 0.31}, and flushes it'
# As of a command that is run once; what keeps it alive is descriptor 3, as stdin brings what it is asked.
_WATCHED = '{ read -r _ <&3 || kill -9 0; } </dev/null >/dev/null 2>&1 & exec 3<&- "$@"'


@dataclass(slots=True)
class _Process:
    """A server that runs.

    Attributes:
        alive: an end of a pipe that only we have: when the system closes it, the server is killed with all it started.
        said: what it prints to stderr.
    """

    process: subprocess.Popen[bytes]
    alive: int
    said: IO[bytes]
    read: bytes = b""

    def end(self) -> None:
        """Kill it, with whatever it started."""
        end_group(self.process)
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe:
                    pipe.close()
        with suppress(OSError):
            os.close(self.alive)
        self.said.close()


class EvaluationServer:
    """The command of `--eval-server`, which is started when it is first asked and ends with this object or with us."""

    def __init__(self, words: tuple[str, ...], timeout: float | None) -> None:
        """`timeout`: seconds for one answer, the first with the time that it takes to start."""
        self._words, self._timeout = words, timeout
        self._held: list[_Process] = []
        self._net = weakref.finalize(self, _end_all, self._held)

    def ask(self, checkpoint: Path) -> Scores:
        """What a checkpoint is worth.

        A server that has failed is started again for the next one.

        Raises:
            UsageError: there is no such program.
            ContentError: it ended, takes too long, or answers with no figure.
        """
        if not self._held:
            self._held.append(_begin(self._words))
        server = self._held[0]
        try:
            line = self._answer(server, (json.dumps({"checkpoint": str(checkpoint)}) + "\n").encode())
            scores, error = _read(line)
        except BaseException:
            self.close()
            raise
        if error is not None:
            raise ContentError(f"the evaluation server answered with an error: {error}", remedy="see what it says")
        assert scores is not None
        return scores

    def close(self) -> None:
        """End the server, if it runs."""
        _end_all(self._held)

    def _answer(self, server: _Process, question: bytes) -> bytes:
        """Send a line and wait for the next one."""
        process = server.process
        assert process.stdin
        assert process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if selector.select(0):  # a line that came late would be taken for the answer to this question
                late = os.read(process.stdout.fileno(), 1 << 16)
                raise _chatty(late) if late else self._ended(server)
            try:
                process.stdin.write(question)
                process.stdin.flush()
            except BrokenPipeError:
                raise self._ended(server) from None
            until = None if self._timeout is None else monotonic() + self._timeout
            while b"\n" not in server.read:
                left = None if until is None else max(0.0, until - monotonic())
                if not selector.select(left):
                    raise ContentError(
                        f"the evaluation server gave no answer in {self._timeout:g} s and was stopped",
                        remedy="give it longer with --eval-timeout SECONDS; it has to flush each answer",
                    )
                found = os.read(process.stdout.fileno(), 1 << 16)
                if not found:
                    raise self._ended(server)
                server.read += found
                if len(server.read) > _LONGEST:
                    raise ContentError("the evaluation server's answer has no end", remedy=_REMEDY)
        line, _, server.read = server.read.partition(b"\n")
        if server.read:
            raise _chatty(server.read)
        return line

    def _ended(self, server: _Process) -> ContentError:
        code = server.process.wait()
        server.said.seek(0)
        return ContentError(
            f"the evaluation server ended with code {code}{last_line(server.said.read(), ': ')}",
            where=shlex.join(self._words),
            remedy=_REMEDY,
        )


def _chatty(said: bytes) -> ContentError:
    return ContentError(
        f"the evaluation server printed more than its answer: {said[:60].decode('utf-8', 'replace')!r}",
        remedy=_REMEDY + "; what else it says goes to stderr",
    )


def parse_server(text: str) -> tuple[str, ...]:
    """The words of `--eval-server`.

    Raises:
        UsageError: it cannot be read, or there is no such program.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--eval-server: {error}", remedy="quote it as for a shell") from error
    if not words:
        raise UsageError("--eval-server is empty", remedy="for example --eval-server 'python serve.py'")
    find_program(words[0], "--eval-server")
    return words


def _read(line: bytes) -> tuple[Scores | None, str | None]:
    """The figures of an answer, or the error that it tells."""
    text = line.decode("utf-8", "replace").strip()
    with suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict) and "error" in found and "loss" not in found:
            return None, str(found["error"])[:200]
    return parse_scores(text, "the evaluation server's answer", _REMEDY), None


def _begin(words: tuple[str, ...]) -> _Process:
    program = find_program(words[0], "--eval-server")
    watched, alive = os.pipe()
    said = tempfile.TemporaryFile(prefix="rebasin-")  # noqa: SIM115  (closed with the process)
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec 3</dev/fd/{watched}; {_WATCHED}", "sh", os.path.abspath(program), *words[1:]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, start_new_session=True, pass_fds=(watched,),
        )  # fmt: skip
    except BaseException:
        os.close(alive)
        said.close()
        raise
    finally:
        os.close(watched)
    return _Process(process, alive, said)


def _end_all(held: list[_Process]) -> None:
    while held:
        held.pop().end()
