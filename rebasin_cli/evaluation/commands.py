"""A user's own evaluation: a command that is given a checkpoint and says on its last line what it is worth."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.scores import Scores

PLACE = "{checkpoint}"
# The words of the command come as arguments and are not read by the shell; `kill 0` reaches the whole group.
_WATCHED = 'exec 3<&0 </dev/null; { read -r _ <&3 || kill -9 0; } >/dev/null 2>&1 & exec 3<&- "$@"'
_REMEDY = 'the last line it prints is a number (the loss) or JSON: {"loss": 0.31, "accuracy": 0.9}'


def parse_command(text: str) -> tuple[str, ...]:
    """The words of `--eval-command`.

    Raises:
        UsageError: it cannot be read, or has no place for the checkpoint.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--eval-command: {error}", remedy="quote it as for a shell") from error
    if not any(PLACE in word for word in words):
        raise UsageError(
            f"--eval-command has no {PLACE} in it, so that it could not know what to evaluate",
            remedy=f"for example --eval-command 'python eval.py {PLACE}'",
        )
    return words


def run_command(words: tuple[str, ...], checkpoint: Path, timeout: float | None) -> Scores:
    """Run the command on one checkpoint and read what it says.

    No shell reads its words; it runs in the current folder, with nothing on its stdin. After `timeout` seconds, or if
    we end meanwhile, whatever ends us, it is killed together with whatever it started.

    Raises:
        UsageError: there is no such program.
        ContentError: it fails, takes too long, or its last line is no figure.
    """
    call = [word.replace(PLACE, str(checkpoint)) for word in words]
    process, alive = _begin(call)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _end(process)
        raise ContentError(
            f"the evaluation command was still running after {timeout:g} s and was stopped",
            remedy="give it longer with --eval-timeout SECONDS",
        ) from None
    except BaseException:
        _end(process)
        raise
    finally:
        with suppress(OSError):  # it has nothing to watch any more
            os.write(alive, b"\n")
        os.close(alive)
    if process.returncode != 0:
        raise ContentError(
            f"the evaluation command ended with code {process.returncode}{_last(err, ': ')}",
            where=shlex.join(call),
            remedy="run it by hand on either checkpoint",
        )
    return parse_scores(_last(out))


def parse_scores(line: str) -> Scores:
    """What a last line says.

    Raises:
        ContentError: it is empty, neither a number nor JSON, or has no loss.
    """
    if not line:
        raise ContentError("the evaluation command printed nothing", remedy=_REMEDY)
    try:
        return Scores(float(line))
    except ValueError:
        pass
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ContentError(f"the evaluation command's last line is no figure: {line[:60]!r}", remedy=_REMEDY)
    figures = {k: float(v) for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    if "loss" not in figures:
        have = ", ".join(f"`{name}`" for name in found) or "nothing"
        raise ContentError(
            f"the evaluation command's last line has no number `loss` in it; it has {have}",
            remedy=_REMEDY + "; without a loss take 1 - accuracy",
        )
    return Scores(figures.pop("loss"), figures.pop("accuracy", math.nan), figures)


def _begin(call: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command, and beside it a shell that kills its process group once we are no more.

    Returns the process and the writing end of a pipe, which only we have: the system closes it however we end, and
    that is what the shell waits for. A line through it tells the shell to leave. (A signal at the parent's death, as
    Linux has it, would reach the command alone, and not what the command started.)

    Raises:
        UsageError: there is no such program.
    """
    program = shutil.which(call[0])
    if program is None:
        there = os.path.exists(call[0])
        raise UsageError(
            f"--eval-command: {call[0]} cannot be run: {'Permission denied' if there else 'No such file or directory'}",
            remedy="it runs without a shell; for pipes and the like: bash -c '…'",
        )
    watched, alive = os.pipe()
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHED, "sh", os.path.abspath(program), *call[1:]],
            stdin=watched, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
    except BaseException:
        os.close(alive)
        raise
    finally:
        os.close(watched)
    return process, alive


def _last(output: bytes, before: str = "") -> str:
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return before + lines[-1] if lines else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole group, which the command leads: it may have started others that hold its pipes."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
