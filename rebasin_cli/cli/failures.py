"""How the program ends where it fails: what is told, and the exit code.

0 done                          4 the system: cannot be read or written, no memory
1 a gate or a check failed     70 a bug of ours
2 usage                       130 interrupted, 143 terminated, 129 the terminal was closed (SIGHUP)
3 contents do not fit         141 the reader of our pipe went away (quietly)
"""

from __future__ import annotations

import os
import re
import traceback
from typing import Any

import typer

from rebasin_cli import process
from rebasin_cli.cli.streams import ClosedPipe, print_error, print_error_parts
from rebasin_cli.errors import ContentError, RebasinError, SystemFailure, UsageError, did_you_mean
from rebasin_cli.process import CLOSED_PIPE, INTERRUPTED

_BUG = 70

_COMPLETION = "_REBASIN_COMPLETE"  # set by a shell that asks for completions; typer exits then
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "failed to map segment")
_COMMAND = re.compile(r"No such command '(.*?)'\.")
_EXTRA = re.compile(r"Got unexpected extra argument\S* \((?P<given>.*)\)")
_CHOICE = re.compile(r"'(?P<given>[^']*)' is not one of (?P<choices>'.*')")


# Typer has its own copy of click by now and used the package before; this is the base of usage errors in both.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def exit_code_of(failure: BaseException) -> int:
    """Tell a failure and give its exit code."""
    if isinstance(failure, RebasinError):
        print_error(failure)
        return failure.exit_code
    if isinstance(failure, _UsageError):
        print_error_parts(*_usage_parts(failure))
        return UsageError.exit_code
    if isinstance(failure, (KeyboardInterrupt, typer.Abort)):
        print_error_parts("interrupted")
        return INTERRUPTED
    if isinstance(failure, process.Ended):
        print_error_parts(failure.word)
        return failure.code
    if isinstance(failure, (ClosedPipe, BrokenPipeError)):
        return CLOSED_PIPE
    if isinstance(failure, SystemExit):
        return _code_of_exit(failure)
    system = _from_the_system(failure)
    if system is not None:
        print_error(system)
        return system.exit_code
    frame = traceback.extract_tb(failure.__traceback__)[-1]
    print_error_parts(
        f"this is a bug in rebasin: {type(failure).__name__}: {failure}",
        where=f"{os.path.basename(frame.filename)}:{frame.lineno}, in {frame.name}",
        remedy="please report it, with the command and what it prints with --debug",
    )
    return _BUG


def _code_of_exit(failure: SystemExit) -> int:
    if isinstance(failure.__context__, BrokenPipeError):  # so rich and typer leave when the reader of stdout went away
        return CLOSED_PIPE
    if _COMPLETION in os.environ:
        return failure.code if isinstance(failure.code, int) else 1
    print_error_parts(  # code of the user's own, such as a network's; what we were asked for is not done
        f"code that was run here ended the program: sys.exit({failure.code!r})",
        remedy="have it return, or raise an exception that says what is wrong",
    )
    return ContentError.exit_code


def _from_the_system(failure: BaseException) -> SystemFailure | None:
    """What the system refused us, in whichever exception of a library that came."""
    text = str(failure)
    if _is_out_of_memory(failure):
        return SystemFailure("there is not enough memory", remedy="`--dry-run` estimates what a run needs")
    if isinstance(failure, RuntimeError) and "can't start new thread" in text:
        return SystemFailure("no more threads can be started", remedy="raise the limit (ulimit -u)")
    if isinstance(failure, ModuleNotFoundError) and failure.name == "torch":
        return SystemFailure(
            "this needs torch, which is not installed",
            remedy="install the build for your machine; where there is no GPU, the one for CPUs (others bring CUDA)",
        )
    if isinstance(failure, ImportError) and not str(failure.name).startswith("rebasin_cli"):
        return SystemFailure(
            f"{failure.name or 'a library'} cannot be loaded: {text}",
            remedy="look at the limits of the process (ulimit -a), or install rebasin again",
        )
    if isinstance(failure, OSError):
        place = f": {failure.filename}" if failure.filename else ""
        return SystemFailure(
            f"{failure.strerror or failure}{place}", remedy="check the path, its permissions and the disk"
        )
    return None


def _is_out_of_memory(failure: BaseException) -> bool:
    # torch's own classes are told by name and text: importing torch to ask would be a second or two for nothing.
    told = type(failure).__name__ == "OutOfMemoryError" or any(words in str(failure).lower() for words in _NO_MEMORY)
    return isinstance(failure, MemoryError) or (isinstance(failure, (RuntimeError, OSError, ImportError)) and told)


def _usage_parts(failure: Exception) -> tuple[str, str, str]:
    """What, where, and what to do next."""
    context = getattr(failure, "ctx", None)
    text = str(failure.format_message() if hasattr(failure, "format_message") else failure)
    path = context.command_path if context is not None else "rebasin"
    what, meant = _meant(failure, text, getattr(context, "command", None))
    return what, path, " ".join(filter(None, (meant, f"`{path} --help` shows the usage")))


def _meant(failure: Exception, text: str, command: Any) -> tuple[str, str]:
    """The mistake, and the words that are nearest to a wrong one."""
    option = getattr(failure, "option_name", None)
    if command is not None and option and "No such option" in text:
        known = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
        return f"there is no option `{option}`", did_you_mean(option, [*known, "--help"])
    if command is not None and (found := _COMMAND.match(text)):
        return f"there is no command `{found[1]}`", did_you_mean(found[1], getattr(command, "commands", ()))
    if command is not None and (found := _EXTRA.match(text)):
        several = "`rebasin merge` takes several models." if command.name == "interpolate" else ""
        return f"this is more than `{command.name}` takes: {found['given']}", several
    what = (text[:1].lower() + text[1:]).rstrip(".").replace("Value error, ", "")
    choice = _CHOICE.search(text)
    return what, did_you_mean(choice["given"], re.findall("'([^']*)'", choice["choices"])) if choice else ""
