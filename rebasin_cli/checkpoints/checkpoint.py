"""A checkpoint as a value: names, shapes and types are known, tensors are read on demand.

And how one is named on the command line: `FILE:KEY` for one network in a file, `hf:OWNER/NAME` for the hub's, which
`hub.py` fetches.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from rebasin_cli.checkpoints.header import TensorInfo
from rebasin_cli.checkpoints.reader import TensorFile
from rebasin_cli.errors import ContentError, SystemFailure, UsageError
from rebasin_cli.files import read_json

if TYPE_CHECKING:  # only reading a tensor imports it
    import torch

CONFIG_LIMIT = 16 << 20  # bytes: 20,000 names of classes take 1 MB


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a checkpoint: the name under which it is written, relative to the folder, and its tensors."""

    name: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """The index of a sharded folder: the name it is written under, and the `metadata` in it."""

    name: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder has besides tensors.

    Attributes:
        index: the index of its shards, None where there is none.
        companions: small files that belong to the model (config, tokenizer, ...).
    """

    index: Index | None = None
    companions: tuple[Path, ...] = ()


class Checkpoint(Mapping[str, "torch.Tensor"]):
    """Tensors of one or several files, read-only and lazy; iteration follows the files.

    Every `checkpoint[key]` reads the file again into memory that the caller owns: nothing is cached, so
    memory is bounded by what the caller keeps. Reading from several threads at once is fine.

    Attributes:
        path: the file or folder that the user named.
        key: the network in it that the user named (`path:key`), None for the only or obvious one.
        infos: type and shape of every tensor, from the headers.
        metadata: safetensors' `__metadata__` (of all shards; the first one wins); of torch's files, {"format": "pt"}.
        config: the parsed config.json, or what a file of torch's has in its place, or None.
        shards: the files, in order of their names; one for a single file.
        folder: what else is in the folder (or beside the index), which is written as one; None for a single file.
        notes: what the user should know about how it was opened.
        sha256: of what a run has read; None before that. It is pickled by its path, and then opened where it is
            unpickled, if it is the same file there.
    """

    def __init__(
        self,
        path: Path,
        files: Mapping[str, TensorFile],
        *,
        folder: Folder | None = None,
        config: Mapping[str, Any] | None = None,
        notes: tuple[str, ...] = (),
        key: str | None = None,
    ) -> None:
        """`files`: the name that a shard is written under -> its file; no tensor may be in two of them."""
        self._closed = False
        self.sha256: str | None = None
        self.path = path
        self.folder = folder
        own = next(iter(files.values())).config if config is None and len(files) == 1 else None
        self.config = own.values if own is not None else config
        self.key = key
        told = tuple(note for file in files.values() for note in file.notes)
        self.notes = (*notes, *told, own.note) if own is not None else notes + told
        self._files: Mapping[str, TensorFile] = dict(files)
        self.shards = tuple(Shard(name, tuple(file.infos)) for name, file in files.items())
        self.infos: Mapping[str, TensorInfo] = MappingProxyType(
            next(iter(files.values())).infos
            if len(files) == 1
            else {key: info for file in files.values() for key, info in file.infos.items()}
        )
        merged: dict[str, str] = {}
        for file in files.values():
            merged = {**file.metadata, **merged}
        self.metadata: Mapping[str, str] = MappingProxyType(merged)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder (or its index), and so is written as one."""
        return self.folder is not None

    @property
    def index(self) -> Index | None:
        """The index of a folder's shards."""
        return self.folder.index if self.folder else None

    @property
    def companions(self) -> tuple[Path, ...]:
        """Small files of the folder that belong to the model."""
        return self.folder.companions if self.folder else ()

    @property
    def is_permutation(self) -> bool:
        """Whether it is a file of `rebasin align` that says how units move, of whatever version."""
        return self.metadata.get("format", "").startswith("rebasin.permutation/")

    @property
    def address(self) -> str:
        """What the user named: `a.pth`, `a.pth:teacher`."""
        return str(self.path) if self.key is None else f"{self.path}:{self.key}"

    @property
    def files(self) -> Mapping[str, TensorFile]:
        """The files behind the shards, under the shards' names."""
        self._check_open()
        return self._files

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together, without headers."""
        return sum(info.nbytes for info in self.infos.values())

    def __getitem__(self, key: str) -> torch.Tensor:
        """Read a tensor now, in its own type; types that torch lacks are decoded to float32."""
        from rebasin_cli.checkpoints.tensors import as_tensor

        return as_tensor(self.read_raw(key), self.infos[key])

    def read_raw(self, key: str) -> torch.Tensor:
        """The exact bytes of a tensor, 1-D uint8 of `infos[key].nbytes`."""
        self._check_open()
        for file in self._files.values():
            if key in file.infos:
                return file.read_raw(key)
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return key in self.infos  # Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    # Mapping's own equality would read and compare every tensor, and is ambiguous for tensors anyway.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __copy__(self) -> Self:
        """One that may be closed by itself."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        from rebasin_cli.checkpoints.reopening import reopened

        return reopened, (os.path.abspath(self.path), self.key, self.sha256)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self)} tensors, {self.nbytes} bytes)"

    def close(self) -> None:
        """Close the files, mapped ones included; names, shapes and types stay."""
        self._closed = True
        self._files = {}

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self!r} has been closed")

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RenamedCheckpoint(Checkpoint):
    """A view of a checkpoint under other names, and of those of its tensors alone that have one.

    Attributes: those of the checkpoint behind it; `shards` have its own names, so that nothing is written like a view.
        source: the checkpoint behind it.
    """

    def __init__(self, source: Checkpoint, names: Mapping[str, str]) -> None:
        """`names`: the new name -> the one in `source`."""
        super().__init__(
            source.path,
            source.files,
            folder=source.folder,
            config=source.config,
            key=source.key,
        )
        self.source, self._names = source, dict(names)
        self.metadata = source.metadata
        self.infos = MappingProxyType({new: source.infos[old] for new, old in self._names.items()})

    def read_raw(self, key: str) -> torch.Tensor:
        """The exact bytes of a tensor, 1-D uint8 of `infos[key].nbytes`."""
        return self.source.read_raw(self._names[key])

    def __reduce__(self) -> tuple[Any, ...]:
        return RenamedCheckpoint, (self.source, self._names)

    def close(self) -> None:
        """Nothing: the checkpoint behind it is closed by whoever opened it."""


def read_config(path: Path, *, required: bool) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
    """config.json, parsed, and a note if it is there and cannot be used.

    Next to a single file (`required` false) it may belong to something else, so a fault in it is only noted.
    """
    if not path.exists():
        return None, ()
    try:
        config = read_json(path, CONFIG_LIMIT)
        if not isinstance(config, Mapping):
            raise ContentError(
                f"config.json should be a JSON object and is a {type(config).__name__}", where=str(path),
                remedy="restore config.json from where the model came from",
            )  # fmt: skip
    except (ContentError, SystemFailure) as error:
        if required:
            raise
        return None, (f"{path} was not used: {error.what}",)
    return config, ()


HUB_PREFIX = "hf:"
HUB_FORM = "hf:OWNER/NAME, and after it @REVISION and /FILE or /FOLDER if need be"

_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
HUB_REVISION = r"refs/(?:pr/\d+|convert/\w+)|\w[\w.+-]*"
_OF_HUB = re.compile(rf"hf:(?P<repo>{_PART}/{_PART})(?:@(?P<revision>{HUB_REVISION}))?(?:/(?P<path>[^@:\\]+))?")
_IN_CACHE = re.compile(r"(?:^|/)(?:models|datasets)--(?P<repo>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})(?:/|$)")
_NOT_IN_NAMES = re.compile(r"[^\w.-]+")


def split_address(path: Path) -> tuple[Path, str | None]:
    """`a.pth:teacher` → (`a.pth`, "teacher"). A path that exists is one, also with a colon in its name."""
    text = str(path)
    if ":" not in text or os.path.lexists(path):
        return path, None
    for colon in [match.start() for match in re.finditer(":", text)]:
        file, key = text[:colon], text[colon + 1 :]
        if file and key and os.path.lexists(file):
            return Path(file), key
    return path, None


def is_pattern(key: str | None) -> bool:
    """Whether a key names several members: `models.*`, `*`."""
    return key is not None and (key == "*" or key.endswith(".*"))


def names_several(path: Path) -> bool:
    """Whether a path has a key that names several members."""
    return is_pattern(split_address(path)[1])


def file_name_of(key: str) -> str:
    """A key as a part of a file's name: `model.encoder` stays, what a name should not have becomes `_`."""
    return _NOT_IN_NAMES.sub("_", key).strip(".")[:80] or "_"


@dataclass(frozen=True, slots=True)
class HubName:
    """A model of the hub as it was named.

    Attributes:
        repo: `OWNER/NAME`; revision: a branch, a tag or a commit, None for the main branch.
        path: a file or a folder in it, "" for the whole.
    """

    repo: str
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{HUB_PREFIX}{self.repo}{revision}" + (f"/{self.path}" if self.path else "")


def is_on_hub(text: str) -> bool:
    """Whether a text names something on the hub, and no file that is here."""
    return text.startswith(HUB_PREFIX) and not os.path.lexists(text)


def hub_name(text: str) -> HubName:
    """What `hf:…` names.

    Raises:
        UsageError: it is no such name.
    """
    found = _OF_HUB.fullmatch(text)
    path = PurePosixPath(found["path"] or "") if found else PurePosixPath()
    if found is None or ".." in path.parts or ".." in found["repo"] or "--" in found["repo"]:
        raise UsageError(f"{text}: that is no name of a model on the hub", remedy=f"the form is {HUB_FORM}")
    return HubName(found["repo"], found["revision"], "" if str(path) == "." else str(path))


def place_in_cache(path: str) -> tuple[str, str] | None:
    """`OWNER/NAME` and the commit of a file in the cache of the hub; None for any other file."""
    found = _IN_CACHE.search(path)
    return (found["repo"].replace("--", "/"), found["commit"]) if found else None
