"""Where outputs go, and every collision among them, before any work is done; how weights and document get there."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from rebasin_cli.checkpoints.checkpoint import Checkpoint, file_name_of, place_in_cache, split_address
from rebasin_cli.checkpoints.places import check_file_target, check_space, check_target, needed_bytes
from rebasin_cli.errors import UsageError
from rebasin_cli.pipeline import Progress
from rebasin_cli.report.codec import document_file
from rebasin_cli.report.document import RunDocument

if TYPE_CHECKING:
    from rebasin_cli.checkpoints.outputs import Outputs
    from rebasin_cli.checkpoints.writer import Read


# What is read with a checkpoint: sizes, preparation of images, a tokenizer.
_BESIDE = (
    "config.json",
    "preprocessor_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
)
_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".npz", ".onnx", ".gguf", ".h5", ".keras", ".msgpack"}


class CanPlan(Protocol):
    """A request that may be planned only."""

    @property
    def dry_run(self) -> bool:
        """Whether nothing is to be done."""


Place = Path | BinaryIO
"""Where an output goes: a path, or a pipe."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The outputs of a command.

    Attributes:
        places: by role, in the order in which they are checked and listed. Paths are absolute.
        weights: the role of the checkpoint, or of a folder of checkpoints. Every other output is a small file.
    """

    places: Mapping[str, Place]
    weights: str

    @staticmethod
    def of(weights: str, places: Mapping[str, Place | None]) -> Targets:
        """The outputs that have a place; None is an output that is not written."""
        named = {role: place for role, place in places.items() if place is not None}
        return Targets({r: p.absolute() if isinstance(p, Path) else p for r, p in named.items()}, weights)

    def __getitem__(self, role: str) -> Place:
        return self.places[role]

    def path(self, role: str) -> Path | None:
        """The path of an output, if it becomes a file."""
        return self.paths().get(role)

    def paths(self) -> dict[str, Path]:
        """Role → path of every output that becomes a file or a folder."""
        return {role: place for role, place in self.places.items() if isinstance(place, Path)}

    def planned(self) -> dict[str, str]:
        """Role → path as the plan of a run lists them."""
        return {role: str(path) for role, path in self.paths().items()}

    def written(self) -> dict[str, str]:
        """Role → path as the run document lists them, without the document itself."""
        return {role: path for role, path in self.planned().items() if role != "report"}

    def hashes(self, written: Mapping[Path, str]) -> dict[str, str]:
        """Role → sha256 of what was written, as far as it is known; of the document itself it is not."""
        return {role: written[path] for role, path in self.paths().items() if path in written and role != "report"}

    def check(
        self,
        inputs: Iterable[Checkpoint | Path],
        like: Checkpoint,
        *,
        force: bool,
        replaceable: Collection[Path] = (),
        points: Mapping[str, Path] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Refuse outputs that are inputs, that are one file, or that cannot be written.

        Args:
            like, replaceable: see `check_places`.
            points: the files in the folder that `weights` names. That folder is checked by `check_points`.
            tell: see `check_space`.

        Raises:
            UsageError, SystemFailure: see `check_apart`, `check_places`, `check_space`.
        """
        check_apart(inputs, {**self.paths(), **(points or {})})
        self._check_writable(like, force=force, replaceable=replaceable, is_folder_of_points=points is not None)
        path = self.path(self.weights)
        if path is not None and points is None:
            check_space(path, needed_bytes(like), tell)

    def check_places(
        self,
        inputs: Iterable[Checkpoint | Path],
        like: Checkpoint,
        *,
        force: bool,
        replaceable: Collection[Path] = (),
        is_folder_of_points: bool = False,
    ) -> None:
        """Refuse names and places that cannot be written, before anything that takes time, such as a derivation.

        Args:
            like: the checkpoint whose form the weights have.
            replaceable: small files that may be replaced without `force`.

        Raises:
            UsageError, SystemFailure: see `check_apart`, `check_weights_name`, `check_target`.
        """
        check_apart(inputs, self.paths())
        self._check_writable(like, force=force, replaceable=replaceable, is_folder_of_points=is_folder_of_points)

    def _check_writable(
        self, like: Checkpoint, *, force: bool, replaceable: Collection[Path], is_folder_of_points: bool
    ) -> None:
        for role, path in self.paths().items():
            if role != self.weights:
                check_file_target(path, force=force or path in replaceable)
            elif not is_folder_of_points:
                check_weights_name(path, is_folder=like.is_folder)
                check_target(path, like, force=force)


def tell_room(request: CanPlan, progress: Progress) -> Callable[[str], None] | None:
    """Whom a disk without room is told, where a run is planned only; None: it is refused."""
    return progress.warn if request.dry_run else None


def base_of(path: Path, *, is_folder: bool) -> Path:
    """A checkpoint's path without its ending: `x/b.safetensors` → `x/b`, the folder `x/b/` → `x/b`.

    A network of several in a file keeps its name: `x/b.pth:teacher` → `x/b.teacher`. What lies in the cache of the hub
    is named after its repository, in the current folder.
    """
    path, key = split_address(path)
    if key is not None:
        return beside(base_of(path, is_folder=is_folder), f".{file_name_of(key)}")
    path = Path(os.path.abspath(path))  # `.` has no name, and links are to stay as they are
    if fetched := place_in_cache(str(path)):  # nothing of ours goes into the cache of the hub
        whole = not path.suffix or path.name == fetched[1]
        path = Path.cwd() / (fetched[0].rpartition("/")[2] if whole else path.name)
        return path if is_folder else path.with_suffix("")
    if is_folder:
        return path if path.is_dir() else path.parent
    return path.with_suffix("") if path.suffix else path


def named_after(checkpoint: Checkpoint, path: Path, word: str) -> Path:
    """Where an output goes that has no name: `x/b.safetensors` and `aligned` → `x/b.aligned.safetensors`."""
    ending = f".{word}" if checkpoint.is_folder else f".{word}.safetensors"
    return beside(base_of(path, is_folder=checkpoint.is_folder), ending)


def output_base(output: Place) -> Path | None:
    """`x/out.safetensors` → `x/out`; what has another ending or none keeps its name. None for a pipe."""
    if not isinstance(output, Path):
        return None
    output = Path(os.path.abspath(output))
    return output.with_suffix("") if output.suffix == ".safetensors" else output


def document_base(document: Path) -> Path:
    """`x/run.json` and `x/run.rebasin.json` → `x/run`."""
    document = Path(os.path.abspath(document))
    return document.with_name(document.name.removesuffix(".json").removesuffix(".rebasin"))


def named_or_beside(named: Path | None, base: Path | None, ending: str) -> Path | None:
    """The path that the user named, or else the one beside the weights; None where those have no name either.

    There is none for `-`, which is stdout.
    """
    if named == Path("-"):
        return None
    return named if named or base is None else beside(base, ending)


def beside(base: Path, ending: str) -> Path:
    """`x/b` and `.rebasin.json` → `x/b.rebasin.json`.

    Raises:
        UsageError: `base` is `/`, which has no name.
    """
    if not base.name:
        raise UsageError(f"{base} has no name that outputs could have", remedy="name a file or a folder with -o")
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
    """See that no output is an input, lies inside one, or is another output; by name and by what the name leads to.

    Raises:
        UsageError: `--force` does not help here; nothing may overwrite what it is made from.
    """
    entries = list(inputs)
    read = {file for entry in entries for file in _files(entry)}
    identities = {found for file in read if (found := identity(file)) is not None}
    folders = [file for entry in entries if isinstance(entry, Path) for file in _files(entry) if file.is_dir()]
    named = {Path(os.path.realpath(entry if isinstance(entry, Path) else entry.path)) for entry in entries}
    models = [path for path in named if path.is_dir() and any(path.glob("*.safetensors"))]
    seen: dict[Path | tuple[int, int], str] = {}
    for role, target in outputs.items():
        if target is None:
            continue
        place = Path(os.path.realpath(target))
        same = identity(place)
        inside = same is not None and any(folder in place.parents for folder in folders)
        if place in read or same in identities or inside:
            raise UsageError(f"{target} is both an input and the {role} output", remedy="give that output another name")
        within = next((folder for folder in models if folder in place.parents), None)
        if within is not None and place.suffix in ("", ".safetensors"):
            raise UsageError(
                f"{target} would lie in the input {within}, whose weights are all that lies there",
                remedy="write it to another folder",
            )
        holds = place.is_dir() and role != "points"
        held = next((file for file in sorted(read) if place in file.parents), None) if holds else None
        if held is not None:
            raise UsageError(
                f"{target} is the {role} output, and the input {held} lies in it",
                remedy="give that output another name",
            )
        for known in (place, same):
            if known is not None and known in seen:
                raise UsageError(
                    f"{target} is named for both the {seen[known]} and the {role} output", remedy="give them two names"
                )
        seen |= {known: role for known in (place, same) if known is not None}


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file whatever it is called: its device and number; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _files(entry: Checkpoint | Path) -> set[Path]:
    """Everything that must not be written over: the named path, and what is read with a checkpoint."""
    if isinstance(entry, Path):
        return {Path(os.path.realpath(entry))}
    named = Path(os.path.realpath(entry.path))
    folder = named if named.is_dir() else named.parent
    found = {named} | {Path(os.path.realpath(folder / name)) for name in _BESIDE if (folder / name).exists()}
    if entry.is_folder:
        found |= {folder} | {Path(os.path.realpath(file.path)) for file in entry.files.values()}
        found |= {Path(os.path.realpath(path)) for path in entry.companions}
        found |= {Path(os.path.realpath(path)) for path in folder.glob("*.index.json")}
    return found


def write_document(document: RunDocument, targets: Targets, outputs: Outputs, progress: Progress) -> None:
    """Write the document where it was named or belongs, if anywhere, and tell where that is."""
    if path := targets.path("report"):
        outputs.write(path, document_file(document, path))
        progress.document_file = path


def write_weights(
    target: Place,
    source: Checkpoint,
    read: Read,
    *,
    metadata: Mapping[str, str],
    outputs: Outputs,
    progress: Progress,
    finite: bool | None = None,
) -> None:
    """Write a checkpoint like `source` to a path, where it appears with the other outputs, or into a pipe at once.

    Args:
        finite: count values that are not finite, which mixing can make of finite ones, and refuse them (True) or warn
            of them (False); None where what is written was scanned before.

    Raises:
        ContentError: some are refused; nothing appears at `target` then.
    """
    from rebasin_cli.checkpoints.writer import FiniteReader, stream_checkpoint, write_checkpoint

    name = target.name if isinstance(target, Path) else "to stdout"
    at_once = bool(finite) and not isinstance(target, Path)
    reader = FiniteReader(read, source.infos, at_once=at_once) if finite is not None else None
    read = reader or read
    with progress.phase(f"writing {name}", source.nbytes, "bytes") as advance:
        if isinstance(target, Path):
            write_checkpoint(target, source, read, metadata=metadata, on_bytes=advance, outputs=outputs)
        else:
            stream_checkpoint(target, source, read, metadata=metadata, on_bytes=advance)
    if reader and finite:
        reader.check()
    elif reader and reader.counts:
        progress.warn(f"{name}: {reader.found()}")
