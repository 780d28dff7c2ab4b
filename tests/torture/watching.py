"""An audit hook that records what a run must not do: run code, open sockets, write outside its own folders."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_PROCESSES = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn",
    "os.startfile", "webbrowser.open",
)  # fmt: skip
_CODE = ("pickle.find_class", "ctypes.dlopen", "code.__new__", "function.__new__", "cpython.run_command")
_CHANGES = (
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate",
    "os.utime", "os.setxattr", "shutil.rmtree", "shutil.move",
)  # fmt: skip
_NETWORK = ("urllib.", "http.", "ftplib.", "smtplib.")
_DEVICES = ("/dev/null", "/dev/tty", "/dev/full", "/dev/zero")
# Who runs text as code when a module is loaded: classes of records, signatures, and the import system itself.
_LOADERS = (
    "<frozen ",
    "dataclasses.py",
    "collections/__init__.py",
    "typing_extensions.py",
    "inspect.py",
    "typing.py",
    "attr/_make.py",
)
_MOST = 200  # records, so that a pipe always holds them
_ROOTS = tuple(
    {str(Path(root).resolve()) for root in (sys.prefix, sys.base_prefix, Path(__file__).parents[2], os.__file__)}
)


def watch(note: int, folders: Sequence[Path]) -> None:
    """Record from now on: lines of `KIND what` to the descriptor `note`; kinds are code, socket and outside."""
    inside = tuple(os.path.realpath(folder) + os.sep for folder in folders)
    count = 0
    busy = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count, busy
        if busy or count >= _MOST:
            return
        busy = True  # looking itself opens and imports
        try:
            kind = _kind(event, arguments, inside)
            if kind:
                count += 1
                os.write(
                    note, f"{kind} {event} {arguments!r} by {_caller(2)}"[:300].replace("\n", " ").encode() + b"\n"
                )
        except (OSError, RecursionError, MemoryError):
            pass
        finally:
            busy = False

    sys.addaudithook(hook)


def _kind(event: str, arguments: tuple[Any, ...], inside: tuple[str, ...]) -> str | None:
    if event in _PROCESSES or event in _CODE:
        return "code"
    if event.startswith("socket.") or event.startswith(_NETWORK):
        return "socket"
    if event == "exec":
        return "code" if not _is_ours(arguments[0].co_filename, _caller(3)) else None
    if event == "compile":
        return "code" if not _is_ours(str(arguments[1]), _caller(3)) else None
    if event == "import":
        return None if _is_installed(arguments[0]) else "code"
    if _caller(3).endswith("tempfile.py"):  # it looks for a folder that it can write into
        return None
    if event == "open":
        path, flags = arguments[0], arguments[2]
        writes = isinstance(flags, int) and flags & _WRITES
        return "outside" if writes and not isinstance(path, int) and _is_outside(path, inside) else None
    if event in _CHANGES and not isinstance(arguments[0], int):
        named = [each for each in arguments if isinstance(each, str | bytes | os.PathLike)]
        relative = any(isinstance(each, int) and each >= 0 for each in arguments[1:]) and "mod" not in event
        if not relative and any(_is_outside(path, inside) for path in named):
            return "outside"
    return None


def _is_ours(source: str, caller: str) -> bool:
    """Whether code is a module's own, or text that a loader of classes made; `<unknown>` is only parsed (ast)."""
    if source.startswith("<"):
        return source.startswith("<frozen ") or caller.endswith(("ast.py", *_LOADERS)) or caller.startswith(_LOADERS)
    return os.path.realpath(source).startswith(_ROOTS)


def _is_installed(name: str) -> bool:
    """Whether a module that is loaded late belongs to the installation (or is not there)."""
    if name.partition(".")[0] in sys.stdlib_module_names or name.startswith(("rebasin_cli.", "tests.")):
        return True
    try:
        found = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError):
        return True
    return (
        found is None
        or not found.origin
        or os.path.realpath(found.origin).startswith(_ROOTS)
        or (found.origin in ("built-in", "frozen"))
    )


def _is_outside(path: Any, inside: tuple[str, ...]) -> bool:
    real = os.path.realpath(os.fsdecode(path))
    own = ("/tmp/rebasin-", "/var/tmp/rebasin-")  # its temporary files where TMPDIR is no folder
    return not (real + os.sep).startswith(inside) and not real.startswith((*_DEVICES, "/proc/self/", *own))


def _caller(depth: int) -> str:
    """The source file of the code that an event comes from."""
    return sys._getframe(depth).f_code.co_filename
