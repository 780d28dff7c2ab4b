"""A user's own evaluation: a command that is given a checkpoint and says on its last line what it is worth."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import subprocess
from pathlib import Path

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.scores import Scores

PLACE = "{checkpoint}"
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

    It runs without a shell, in the current folder, with nothing on its stdin. After `timeout` seconds, or if we are
    interrupted, it is killed together with whatever it started.

    Raises:
        UsageError: there is no such program.
        ContentError: it fails, takes too long, or its last line is no figure.
    """
    call = [word.replace(PLACE, str(checkpoint)) for word in words]
    try:
        process = subprocess.Popen(
            call, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )  # fmt: skip
    except OSError as error:
        raise UsageError(
            f"--eval-command: {call[0]} cannot be run: {error.strerror}",
            remedy="it runs without a shell; for pipes and the like: bash -c '…'",
        ) from error
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
