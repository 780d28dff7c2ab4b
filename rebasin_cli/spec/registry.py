"""Where specs are found, shipped with the program or in a file of the user's, and what each may cover.

A command parses only the specs that can cover its checkpoint. The outlines of the shipped specs, which names of tensors
each can have a line for, are data in a file next to them, with a hash of all: where a spec was changed since, the file
is not used, and every spec is parsed. `make outlines` writes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rebasin_cli.errors import MOST_NAMED, ContentError, UsageError, did_you_mean, question
from rebasin_cli.spec.binding.claims import Shape
from rebasin_cli.spec.binding.prefixes import prefix_candidates
from rebasin_cli.spec.language import LONGEST_FILE
from rebasin_cli.spec.language.loading import architectures_folder, load_spec, parse_spec
from rebasin_cli.spec.language.permutation_spec import PermutationSpec
from rebasin_cli.spec.language.template import skeletons_of

_TITLE = re.compile(r"^title: *(.*)$", re.MULTILINE)


@lru_cache(maxsize=1)
def shipped_specs() -> Mapping[str, Path]:
    """Name and file of every shipped spec, by name."""
    return {path.stem: path for path in sorted(architectures_folder().glob("*.yaml"))}


@lru_cache(maxsize=256)
def shipped_spec(name: str) -> PermutationSpec:
    """A shipped spec, parsed once."""
    return load_spec(shipped_specs()[name], shipped=True)


def find_spec(name_or_path: str, text: str = "") -> PermutationSpec:
    """The shipped spec of that name, or the spec in that file.

    Args:
        text: of a spec whose file need not be there any more.

    Raises:
        UnknownArchitectureError: there is neither.
        ContentError: the file is not a spec.
    """
    if text and not os.path.exists(name_or_path):
        if len(text) > LONGEST_FILE:
            raise ContentError(f"the text of the spec {name_or_path} has more than {LONGEST_FILE:,} characters")
        return parse_spec(text, name_or_path)
    specs = shipped_specs()
    if name_or_path in specs:
        return shipped_spec(name_or_path)
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or (path.exists() and not path.is_dir()):
        return load_spec(path)
    raise UnknownArchitectureError(name_or_path)


class UnknownArchitectureError(UsageError):
    """A name that no shipped spec has, and that is no file."""

    def __init__(self, name: str, *, where: str = "") -> None:
        self.name = name
        super().__init__(f"there is no architecture `{name}`", where=where, remedy=_advice(name))


def _advice(name: str) -> str:
    """The specs that are for networks of that name, or that have a name like it."""
    specs = shipped_specs()
    word = re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE)
    titles = {spec: _TITLE.search(path.read_text(encoding="utf-8")) for spec, path in specs.items()}
    meant = [spec for spec, title in titles.items() if title and word.search(title[1])]
    if len(meant) == 1 and (title := titles[meant[0]]):
        return f"did you mean `{meant[0]}`? It is for {title[1]}"
    return (question(meant) if 0 < len(meant) <= MOST_NAMED else did_you_mean(name, specs)) or (
        f"`rebasin arch list` lists the {len(specs)} that ship; a file of your own is named with its .yaml ending"
    )


FILE = "outlines.json"
_ANY = -1  # axes of a line without a pattern


@dataclass(frozen=True, slots=True)
class Outline:
    """What a list of specs shows of one, and what it can have lines for.

    Attributes:
        kinds: (skeleton, number of axes) of its lines, the latter `_ANY` where a line does not say.
        wild: how the names begin and end that its other lines match, and the number of axes.
    """

    title: str
    sha256: str
    prefixes: tuple[str, ...]
    kinds: frozenset[tuple[str, int]]
    wild: tuple[tuple[str, str, int], ...]

    def may_cover(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether every tensor may have a line under one prefix; never false where the spec covers them."""
        axes = [len(shape) for shape in shapes.values()]
        return any(
            all(map(self._may_name, skeletons_of(prefix.strip_all(shapes)), axes))
            for prefix in prefix_candidates(self, tuple(shapes))
        )

    def _may_name(self, skeleton: str, axes: int) -> bool:
        return (
            (skeleton, axes) in self.kinds
            or (skeleton, _ANY) in self.kinds
            or any(
                skeleton.startswith(begin) and skeleton.endswith(end) and said in (axes, _ANY)
                for begin, end, said in self.wild
            )
        )


def outline_of(spec: PermutationSpec) -> Outline:
    """The outline of a parsed spec."""
    kinds: set[tuple[str, int]] = set()
    wild: set[tuple[str, str, int]] = set()
    for line in spec.lines:
        axes = _ANY if line.pattern is None else len(line.pattern.axes)
        skeletons = line.template.skeletons
        kinds |= {(skeleton, axes) for skeleton in skeletons}
        if not skeletons:
            wild.add((*line.template.ends, axes))
    return Outline(spec.title, spec.sha256, spec.prefixes, frozenset(kinds), tuple(sorted(wild)))


@lru_cache(maxsize=1)
def shipped_outlines() -> Mapping[str, Outline]:
    """The outline of every shipped spec, by name; of none if they are not those of the specs as they are now."""
    return read_outlines(architectures_folder() / FILE, shipped_specs())


def read_outlines(file: Path, specs: Mapping[str, Path]) -> Mapping[str, Outline]:
    """The outlines in a file if they are those of the specs as these are now, and none otherwise."""
    try:
        known = json.loads(file.read_bytes())
        if known["specs"] == _digest(specs):
            return {name: _decoded(fields) for name, fields in known["outlines"].items()}
    except (OSError, ValueError, TypeError, KeyError):  # absent, or not what this version writes
        pass
    return {}


def may_cover(name: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether a shipped spec may cover the tensors; it may where nothing is known of it."""
    outline = shipped_outlines().get(name)
    return outline is None or outline.may_cover(shapes)


def outlines_text() -> str:
    """The file, for the specs as they are now."""
    outlines = {name: _encoded(outline_of(shipped_spec(name))) for name in shipped_specs()}
    return json.dumps({"specs": _digest(shipped_specs()), "outlines": outlines}, indent=0, sort_keys=True) + "\n"


def write_outlines() -> None:
    """Write the file."""
    (architectures_folder() / FILE).write_text(outlines_text(), encoding="utf-8")


def _digest(specs: Mapping[str, Path]) -> str:
    """Over the names and bytes of all specs: one may be part of another."""
    files = [(name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in specs.items()]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _encoded(outline: Outline) -> dict[str, object]:
    numbers = {axes for _, axes in outline.kinds}
    kinds = {str(number): sorted(name for name, axes in outline.kinds if axes == number) for number in numbers}
    return {
        "title": outline.title, "sha256": outline.sha256, "prefixes": outline.prefixes, "kinds": kinds,
        "wild": outline.wild,
    }  # fmt: skip


def _decoded(fields: Mapping[str, Any]) -> Outline:
    kinds = frozenset((name, int(axes)) for axes, names in fields["kinds"].items() for name in names)
    wild = tuple((begin, end, axes) for begin, end, axes in fields["wild"])
    return Outline(fields["title"], fields["sha256"], tuple(fields["prefixes"]), kinds, wild)
