"""Where outputs go, and every collision among them, before any work is done."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from rebasin_cli.checkpoints import Checkpoint, check_file_target, file_name_of, replacing_file, split_address
from rebasin_cli.errors import UsageError

_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".npz", ".onnx", ".gguf"}


def base_of(path: Path, *, is_folder: bool) -> Path:
    """A checkpoint's path without its ending: `x/b.safetensors` → `x/b`, the folder `x/b/` → `x/b`.

    A network of several in a file keeps its name: `x/b.pth:teacher` → `x/b.teacher`.
    """
    path, key = split_address(path)
    if key is not None:
        return beside(base_of(path, is_folder=is_folder), f".{file_name_of(key)}")
    path = Path(os.path.abspath(path))  # `.` has no name, and links are to stay as they are
    if is_folder:
        return path if path.is_dir() else path.parent
    return path.with_suffix("") if path.suffix else path


def output_base(output: Path) -> Path:
    """`x/out.safetensors` → `x/out`; what has another ending or none keeps its name."""
    output = Path(os.path.abspath(output))
    return output.with_suffix("") if output.suffix == ".safetensors" else output


def document_base(document: Path) -> Path:
    """`x/run.json` and `x/run.rebasin.json` → `x/run`."""
    document = Path(os.path.abspath(document))
    return document.with_name(document.name.removesuffix(".json").removesuffix(".rebasin"))


def beside(base: Path, ending: str) -> Path:
    """`x/b` and `.rebasin.json` → `x/b.rebasin.json`."""
    return base.with_name(base.name + ending)


def check_weights_name(target: Path, *, is_folder: bool) -> None:
    """Refuse a file name that promises a format which is not written.

    Raises:
        UsageError: for `.pt` and its like.
    """
    if not is_folder and target.suffix.lower() in _SUFFIXES:
        raise UsageError(
            f"{target} would be a safetensors file under the name of another format",
            remedy=f"checkpoints are written as safetensors: -o {target.with_suffix('.safetensors')}",
        )


def check_apart(inputs: Iterable[Checkpoint | Path], outputs: Mapping[str, Path | None]) -> None:
    """See that no output is an input, lies inside one, or is another output.

    Raises:
        UsageError: `--force` does not help here; nothing may overwrite what it is made from.
    """
    read = {file for entry in inputs for file in _files(entry)}
    seen: dict[Path, str] = {}
    for role, target in outputs.items():
        if target is None:
            continue
        place = Path(os.path.realpath(target))
        if place in read:
            raise UsageError(
                f"{target} is both an input and the {role} output", remedy="choose another name for the output with -o"
            )
        if place in seen:
            raise UsageError(
                f"{target} is named for both the {seen[place]} and the {role} output", remedy="give them two names"
            )
        seen[place] = role


def check_files(targets: Iterable[Path | None], *, force: bool) -> None:
    """See that each small file can be written; see `check_file_target`."""
    for target in targets:
        if target is not None:
            check_file_target(target, force=force)


def write_text(target: Path, text: str) -> None:
    """Write a text file whole or not at all; whether it may replace one was asked before."""
    write_bytes(target, text.encode("utf-8"))


def write_bytes(target: Path, data: bytes) -> None:
    """Write a file whole or not at all; whether it may replace one was asked before."""
    with replacing_file(target) as out:
        view = memoryview(data)
        while view:  # the file is unbuffered and may take less than it is offered
            view = view[out.write(view) :]


def _files(entry: Checkpoint | Path) -> set[Path]:
    """Everything that must not be written over: the named path, and the files of a checkpoint behind it."""
    if isinstance(entry, Path):
        return {Path(os.path.realpath(entry))}
    named = Path(os.path.realpath(entry.path))
    folder = named if named.is_dir() else named.parent
    found = {named}
    if entry.is_folder:
        found |= {folder} | {Path(os.path.realpath(folder / shard.name)) for shard in entry.shards}
        found |= {Path(os.path.realpath(path)) for path in entry.companions}
    return found
