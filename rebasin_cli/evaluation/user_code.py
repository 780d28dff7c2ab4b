"""Code that a user names on the command line as `package.module:function`; nothing else is ever imported."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from traceback import extract_tb
from typing import Any

from rebasin_cli.checkpoints.checkpoint import HUB_PREFIX
from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.safe_text import shell_word

_FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_named(text: str) -> bool:
    """Whether a text has the form `package.module:function`; `hf:NAME` is a data set on the hub."""
    return _FORM.fullmatch(text) is not None and not text.startswith(HUB_PREFIX)


def import_named(option: str, reference: str, remedy: str) -> Callable[..., Any]:
    """Import `package.module:function`; the current folder is searched first.

    Args:
        option: as the user wrote it (`--network`), for messages; remedy: what the function has to be.

    Raises:
        UsageError: the reference cannot be read or there is no such module or function.
        ContentError: the module raises while it is imported.
    """
    if not is_named(reference):
        expected = f"{option} {reference}: expected package.module:factory"
        if option == "--network" and os.path.isdir(reference):
            derive = f"`rebasin arch derive {shell_word(reference)} -o FILE.yaml`"
            remedy = f"{derive} derives a spec from its config.json; name that with --arch FILE.yaml"
            raise UsageError(f"{expected}, not a folder", remedy=remedy)
        raise UsageError(expected, remedy=remedy)
    module_name, _, name = reference.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"{option} {reference}: {error}", remedy="run from the folder that holds the module, or install it"
        ) from error
    except Exception as error:
        raise ContentError(
            f"{option} {reference}: importing the module raised {type(error).__name__}: {error}"
        ) from error
    if not callable(found):
        raise UsageError(f"{option} {reference}: `{name}` is a {type(found).__name__}, no function", remedy=remedy)
    return found  # type: ignore[no-any-return]


def module_files(reference: str) -> list[Path]:
    """The file of the module that a reference names, and those of the packages around it; nothing is imported."""
    found: list[Path] = []
    places: list[str] | None = [os.getcwd(), *sys.path]
    name = ""
    for part in reference.partition(":")[0].split("."):
        name = f"{name}.{part}".removeprefix(".")
        spec = PathFinder.find_spec(name, places) if places else None
        if spec is None:
            break
        if spec.has_location and spec.origin:
            found.append(Path(spec.origin))
        places = list(spec.submodule_search_locations) if spec.submodule_search_locations else None
    return found


def call_named(option: str, reference: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call it; whatever it raises becomes a ContentError that names it."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        raise ContentError(
            f"{option} {reference}: the function raised {type(error).__name__}: {error}",
            where=_raised_at(function, error),
            remedy=f"try it by hand: it was called with {_given(arguments, options)}",
        ) from error


def _given(arguments: Sequence[Any], options: Mapping[str, Any]) -> str:
    """What a function was called with, by kinds and sizes."""
    shapes = ("x".join(map(str, getattr(value, "shape", ()))) for value in arguments)
    kinds = [f"a {type(v).__name__}{shape and f' of {shape}'}" for v, shape in zip(arguments, shapes, strict=True)]
    return ", ".join([*kinds, *(f"{name}={value!r}" for name, value in options.items())]) or "nothing"


def _raised_at(function: Callable[..., Any], error: Exception) -> str:
    """The last line of its own file that an error of a function came through; empty where it was not entered."""
    file = getattr(sys.modules.get(getattr(function, "__module__", "")), "__file__", None)
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}:{lines[-1]}" if lines else ""
