"""Several networks in one file, told apart by how their tensors' names begin: `models.0.`, `teacher.`, `0.`.

`FILE:models.0` names one of them, and `FILE:models.*` all that lie beside each other there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rebasin_cli.checkpoints.checkpoint import is_pattern, split_address
from rebasin_cli.checkpoints.header import TensorInfo
from rebasin_cli.checkpoints.reader import Block, FileConfig, SafetensorsFile, TensorFile, kind_of
from rebasin_cli.errors import ContentError
from rebasin_cli.safe_text import first_names

if TYPE_CHECKING:  # headers are read without it
    import torch

_DEPTH = 4  # words of a prefix that are looked at where nobody names one
_SHOWN = 6


class MemberFile:
    """The tensors of a file whose names begin with a prefix, under the rest of their names; see `TensorFile`.

    Its blocks are the whole file, which is what its hash is taken over.
    """

    def __init__(self, file: TensorFile, prefix: str) -> None:
        """`prefix`: with the dot at its end."""
        self._file, self._prefix = file, prefix
        self.path = file.path
        self.metadata: Mapping[str, str] = file.metadata
        self.notes: tuple[str, ...] = file.notes
        self.config: FileConfig | None = file.config
        own = {key[len(prefix) :]: info for key, info in file.infos.items() if key.startswith(prefix)}
        self.infos: Mapping[str, TensorInfo] = MappingProxyType(own)

    def read_raw(self, key: str) -> torch.Tensor:
        """The bytes of a tensor, 1-D uint8, in memory that the caller owns."""
        return self._file.read_raw(self._prefix + key)

    def blocks(self) -> Iterator[Block]:
        """The whole file; of its tensors the member's own have a key."""
        for block in self._file.blocks():
            key = block.key
            own = key[len(self._prefix) :] if key is not None and key.startswith(self._prefix) else None
            if own is not None or block.of_file:
                yield replace(block, key=own)


def member_file(open_file: Callable[[str | None], TensorFile], key: str) -> MemberFile | None:
    """The member that `key` names: in the obvious network of a file, or in the one that the key begins with.

    Args:
        open_file: opens the network of a name in the file, or the obvious one.

    Returns:
        None if no tensor's name begins so.
    """
    dots = [match.start() for match in re.finditer(r"\.", key)]
    for outer, prefix in [(None, key), *((key[:dot], key[dot + 1 :]) for dot in islice(dots, _DEPTH))]:
        with suppress(ContentError):
            file = open_file(outer)
            begin = prefix.removesuffix(".") + "."
            if any(name.startswith(begin) for name in file.infos):
                return MemberFile(file, begin)
    return None


def expanded(path: Path) -> list[Path]:
    """`FILE:models.*` → `FILE:models.0`, `FILE:models.1`, …; any other path as it is.

    Raises:
        ContentError: no member is there, or one alone is. RebasinError: the file cannot be read.
    """
    file, key = split_address(path)
    if key is None or not is_pattern(key):
        return [path]
    stem = key[:-1]
    found = _names_in(file, stem)
    if len(found) < 2:
        raise ContentError(
            f"{path} names several networks, and the file has "
            + (f"one there: {stem}{found[0]}" if found else f"no tensor whose name begins with `{stem}…`"),
            where=str(file), remedy=f"see the names: rebasin inspect {file}",
        )  # fmt: skip
    return [Path(f"{file}:{stem}{name}") for name in found]


def copies(infos: Mapping[str, TensorInfo]) -> tuple[str, tuple[str, ...]] | None:
    """What all names begin with, and the words after it that tell copies of one network apart.

    `models.0.fc.weight`, `models.1.fc.weight`, … → (`models.`, (`0`, `1`, …)). None where the tensors are no copies:
    where one lies outside, two differ in names or shapes, or they are layers.
    """
    stem = ""
    for _ in range(_DEPTH):
        forms: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, info in infos.items():
            word, _, rest = name[len(stem) :].partition(".")
            forms.setdefault(word, {})[rest] = info.shape
        first, *others = forms or [""]
        if others:
            whole = all(forms[first]) and any("." in rest for rest in forms[first])  # a layer is no network
            alike = whole and all(forms[other] == forms[first] for other in others)
            return (stem, tuple(_in_order(forms))) if alike else None
        stem += f"{first}."
    return None


def _names_in(file: Path, stem: str) -> list[str]:
    """The words after a stem that networks, or else names of tensors, have in a file."""
    kind = kind_of(file)
    if kind == "safetensors":
        return _words_after(stem, SafetensorsFile(file).infos)
    from rebasin_cli.checkpoints.pickles import PickleFile, network_names

    networks = network_names(file, zipped=kind == "zip")
    named = [name[len(stem) :] for name in networks if name.startswith(stem)]
    if len(named) > 1:
        return _in_order(named)
    return _words_after(stem, PickleFile(file, zipped=kind == "zip").infos)


def _words_after(stem: str, names: Iterable[str]) -> list[str]:
    rests = (name[len(stem) :] for name in names if name.startswith(stem))
    return _in_order(dict.fromkeys(rest.partition(".")[0] for rest in rests if "." in rest))


def _in_order(words: Iterable[str]) -> list[str]:
    """Numbers by their value, before other words as they came."""
    found = list(words)
    numbers = sorted((word for word in found if word.isdecimal()), key=int)
    return numbers + [word for word in found if not word.isdecimal()]


def listed(stem: str, words: tuple[str, ...]) -> str:
    """`models.0, models.1, …` for a message."""
    return first_names([stem + word for word in words], _SHOWN)
