"""Importing the libraries of real networks, which are optional and not always friendly."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from rebasin_cli.checkpoints.hub import stay_offline
from rebasin_cli.errors import ContentError, RebasinError, UsageError, human_bytes, system_failure
from rebasin_cli.files import open_regular, read_json

_KEPT: list[Any] = []
_READ = (".json", ".txt", ".model", ".jinja", ".tiktoken")  # files beside weights that transformers opens
_LARGEST = 64 << 20  # bytes of one of them: tokenizers reach 35 MB
_CONFIG, _CONFIG_LIMIT = "config.json", 16 << 20

MODULES = re.compile(r"layers?$|_depth|^depths?$|blocks?$|stages?$|experts$")
"""Names of numbers of modules, each of which has tensors of its own."""
_LONGEST_LIST = 1_000_000  # classes or layers: transformers makes a list of them where a config says a number


def library(name: str) -> ModuleType:
    """Import `torchvision`, `timm`, `transformers` or `diffusers`.

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault(
        "HF_HUB_DISABLE_PROGRESS_BARS", "1"
    )  # before huggingface_hub is imported, which reads it once
    stay_offline()
    _make_torchvision_importable()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"the network to prove this spec on comes from `{name}`, which cannot be imported: {error}",
            remedy=f"pip install {name}",
        ) from error


def from_folder(
    name: str,
    folder: Path,
    what: str = "the folder's config.json cannot be followed",
    remedy: str = "name the network with --network",
) -> Any:
    """What an Auto class of transformers (`AutoConfig`) makes of a folder: nothing is fetched, no code of it is run.

    Args:
        what: to say if it fails; remedy: what to do then.

    Raises:
        UsageError: transformers is not installed. ContentError: it cannot be loaded, or needs code from the folder.
        SystemFailure: something in the folder is neither a file nor a folder, and would be waited for.
    """
    _check_entries(folder)
    _check_config(folder)
    auto = getattr(library("transformers"), name)
    with on_files_of_others(what, remedy, folder):
        return auto.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


@contextmanager
def on_files_of_others(what: str, remedy: str, folder: Path | None = None) -> Iterator[None]:
    """A library works on files of others: what it asks is not answered, and whatever it raises is one error of theirs.

    Args:
        what: to say if it fails; remedy: what to do then; folder: where the files lie.

    Raises:
        ContentError: it fails.
    """
    where = "" if folder is None else str(folder)
    try:
        with _no_answers():
            yield
    except (RebasinError, MemoryError):
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ContentError(
                f"{what}: it asks for Python code of its own (auto_map), which is never run", where=where, remedy=remedy
            ) from error
        first = str(error).splitlines()[0] if str(error) else ""
        raise ContentError(f"{what}: {type(error).__name__}: {first}", where=where, remedy=remedy) from error


def _check_entries(folder: Path) -> None:
    try:
        for entry in folder.iterdir():
            if entry.suffix in _READ and entry.exists():
                os.close(open_regular(entry))
                if entry.stat().st_size > _LARGEST:
                    raise ContentError(
                        f"{entry.name} has more than {human_bytes(_LARGEST)}, which a file of its kind does not need",
                        where=str(folder), remedy="download or restore the file",
                    )  # fmt: skip
    except OSError as error:
        raise system_failure(error, folder, "read") from error


def _check_config(folder: Path) -> None:
    path = folder / _CONFIG
    for name, value in whole_numbers(read_json(path, _CONFIG_LIMIT)) if path.is_file() else ():
        if value > _LONGEST_LIST and (MODULES.search(name) or name == "num_labels"):
            raise ContentError(
                f"{_CONFIG} has {name} = {value}, and up to {_LONGEST_LIST:,} are read",
                where=str(folder), remedy="download or restore the file",
            )  # fmt: skip


def whole_numbers(config: Any) -> Iterator[tuple[str, int]]:
    """Every whole number in a config, however deep, with its name."""
    found = [("", config)]
    while found:
        name, value = found.pop()
        if isinstance(value, Mapping):
            found += [(str(key), inner) for key, inner in value.items()]
        elif isinstance(value, (list, tuple)):
            found += [(name, inner) for inner in value]
        elif isinstance(value, int):
            yield name, value


@contextmanager
def _no_answers() -> Iterator[None]:
    """An empty stdin: a question that a library asks is not answered by what is piped to us."""
    before = sys.stdin
    with open(os.devnull, encoding="utf-8") as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = before


def _make_torchvision_importable() -> None:
    """Define two operators that torchvision registers fakes for, where its compiled half does not fit this torch.

    A CUDA build of torchvision beside a CPU torch fails to import, and takes transformers and timm with it, only
    because `torchvision::nms` does not exist. No network here calls it.
    """
    if _KEPT or "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except (RuntimeError, OSError):
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        operators: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(operators)
        importlib.import_module("torchvision")
