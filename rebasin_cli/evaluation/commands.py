"""A user's own evaluation: a command that is given a checkpoint and says on its last line what it is worth."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.scores import Scores

PLACE = "{checkpoint}"
VARIABLE = "REBASIN_CHECKPOINT"
_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")  # paths that mean themselves in whatever reads the word they stand in
# The words of the command come as arguments and are not read by the shell; `kill 0` reaches the whole group.
_WATCHED = 'exec 3<&0 </dev/null; { read -r _ <&3 || kill -9 0; } >/dev/null 2>&1 & exec 3<&- "$@"'
_REMEDY = 'the last line it prints is a number (the loss) or JSON: {"loss": 0.31, "accuracy": 0.9}'


def parse_command(text: str, folder: Path) -> tuple[str, ...]:
    """The words of `--eval-command`.

    A shell of the command's own (`bash -c '… {checkpoint} …'`) reads the path as a part of a script: there a path with
    characters that a script could take for its own is refused.

    Args:
        folder: where the checkpoints will lie.

    Raises:
        UsageError: it cannot be read, has no place for the checkpoint or an unsafe one, or there is no such program.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--eval-command: {error}", remedy="quote it as for a shell") from error
    if not any(PLACE in word or VARIABLE in word for word in words):
        raise UsageError(
            f"--eval-command has neither {PLACE} nor ${VARIABLE} in it, so that it could not know what to evaluate",
            remedy=f"for example --eval-command 'python eval.py {PLACE}'",
        )
    if not _PLAIN.fullmatch(str(folder)) and any(PLACE in word and word != PLACE for word in words):
        raise UsageError(
            f"--eval-command: {PLACE} stands within a word, which a shell may read, and the folder of temporary files "
            f"has characters with a meaning: {str(folder)!r}",
            remedy=f'write "${VARIABLE}" there instead, or set TMPDIR to a folder of a plain name',
        )
    find_program(words[0])
    return words


def run_command(words: tuple[str, ...], checkpoint: Path, timeout: float | None) -> Scores:
    """Run the command on one checkpoint and read what it says.

    No shell of ours reads its words; it runs in the current folder, with nothing on its stdin, and has the path in its
    environment, too. After `timeout` seconds, or if we end meanwhile, whatever ends us, it is killed together with
    whatever it started.

    Raises:
        UsageError: there is no such program.
        ContentError: it fails, takes too long, or its last line is no figure.
    """
    place = str(checkpoint)
    call = [word.replace(PLACE, place) for word in words]
    process, alive = _begin(call, {VARIABLE: place})
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        end_group(process)
        raise ContentError(
            f"the evaluation command was still running after {timeout:g} s and was stopped",
            remedy="give it longer with --eval-timeout SECONDS",
        ) from None
    except BaseException:
        end_group(process)
        raise
    finally:
        with suppress(OSError):  # it has nothing to watch any more
            os.write(alive, b"\n")
        os.close(alive)
    if process.returncode != 0:
        raise ContentError(
            f"the evaluation command ended with code {process.returncode}{last_line(err, ': ')}",
            where=shlex.join(call),
            remedy="run it by hand on either checkpoint",
        )
    return parse_scores(last_line(out))


def parse_scores(line: str, what: str = "the evaluation command's last line", remedy: str = _REMEDY) -> Scores:
    """What a last line says; `what` it is and the `remedy` are for messages.

    Raises:
        ContentError: it is empty, neither a number nor JSON, or has no loss.
    """
    if not line:
        nothing = "the evaluation command printed nothing" if remedy == _REMEDY else f"{what} is empty"
        raise ContentError(nothing, remedy=remedy)
    try:
        return Scores(float(line))
    except ValueError:
        pass
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ContentError(f"{what} is no figure: {line[:60]!r}", remedy=remedy)
    figures = {k: float(v) for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    if "loss" not in figures:
        have = ", ".join(f"`{name}`" for name in found) or "nothing"
        raise ContentError(
            f"{what} has no number `loss` in it; it has {have}",
            remedy=remedy + "; without a loss take 1 - accuracy",
        )
    return Scores(figures.pop("loss"), figures.pop("accuracy", math.nan), figures)


def _begin(call: list[str], variables: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command, and beside it a shell that kills its process group once we are no more.

    Returns the process and the writing end of a pipe, which only we have: the system closes it however we end, and
    that is what the shell waits for. A line through it tells the shell to leave. (A signal at the parent's death, as
    Linux has it, would reach the command alone, and not what the command started.)

    Raises:
        UsageError: there is no such program.
    """
    program = find_program(call[0])
    watched, alive = os.pipe()
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHED, "sh", os.path.abspath(program), *call[1:]],
            stdin=watched, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env={**os.environ, **variables},
        )  # fmt: skip
    except BaseException:
        os.close(alive)
        raise
    finally:
        os.close(watched)
    return process, alive


def find_program(name: str, option: str = "--eval-command") -> str:
    """Where the program of an option lies.

    Raises:
        UsageError: there is none of that name.
    """
    program = shutil.which(name)
    if program is None:
        there = os.path.exists(name)
        raise UsageError(
            f"{option}: {name} cannot be run: {'Permission denied' if there else 'No such file or directory'}",
            remedy="it runs without a shell; for pipes and the like: bash -c '…'",
        )
    return program


def last_line(output: bytes, before: str = "") -> str:
    """The last line that is not empty, after `before`; empty if there is none."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return before + lines[-1] if lines else ""


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole group, which the command leads: it may have started others that hold its pipes."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
