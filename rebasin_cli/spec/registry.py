"""Where specs are found: by name, in a file of the user's, or by the headers of the checkpoint that one of them fits.

A command parses only the specs that can cover its checkpoint. The outlines of the shipped specs, which names of tensors
each can have a line for, are data in a file next to them, with a hash of all: where a spec was changed since, the file
is not used, and every spec is parsed. `make outlines` writes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rebasin_cli.errors import MOST_NAMED, ContentError, UsageError, did_you_mean, question
from rebasin_cli.process import collection_paused
from rebasin_cli.spec.binding.bind import MANY, MOST, Prefix, attempt, matcher_for, prefix_candidates
from rebasin_cli.spec.binding.binder import Request
from rebasin_cli.spec.binding.claims import Shape, one_of_each_kind
from rebasin_cli.spec.binding.layout import Layout
from rebasin_cli.spec.binding.left_over import (
    Mismatch,
    fits_but_for,
    keys_matching,
    nothing_fits,
    require_matches,
)
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


MOST_KINDS = 5000
"""Kinds of names in a checkpoint whose spec is detected. The shipped specs have 300 at most."""

_SAMPLE = 500  # kinds of tensors by which specs are compared if none fits
_TRIED = 8
"""Specs that are bound if none covers every kind of tensor: those that cover most."""

_TRIED_IF_MANY = 2


@collection_paused()
def detect(
    shapes: Mapping[str, Shape],
    *,
    config: Mapping[str, Any] | None = None,
    overrides: Mapping[str, int] | None = None,
    freeze: Sequence[str] = (),
    ignore: Sequence[str] = (),
    specs: Sequence[PermutationSpec] | None = None,
) -> Layout:
    """Find the one spec that covers every tensor, and bind it.

    `config.json`'s `model_type` decides between specs that fit equally; it never overrules the shapes. A spec comes
    before one of which it is a part. Only if no spec fits exactly, other forms of its layers are tried (see `attempt`).

    Args:
        specs: those to choose from; the shipped ones if not given.

    Raises:
        ContentError: none fits (the nearest are shown with their first differences), or several do.
        UsageError: `ignore`, `overrides` or `freeze` name something that does not exist.
    """
    if not shapes:
        raise ContentError("the checkpoint has no tensors", remedy="check the file with `rebasin inspect`")
    require_matches(ignore, shapes)
    model_type = str((config or {}).get("model_type", ""))
    left = keys_matching(ignore, shapes)
    kinds = one_of_each_kind({key: shape for key, shape in shapes.items() if key not in left})
    request = Request(config, None, (), ignore)
    if len(kinds) > MOST_KINDS:
        raise _too_many_kinds(kinds)
    likely = [shipped_spec(name) for name in shipped_specs() if may_cover(name, kinds)] if specs is None else specs
    results = strictly = [attempt(spec, shapes, request) for spec in likely if _covers(spec, kinds)]
    loose = not any(isinstance(r, Layout) for r in results)
    near: list[PermutationSpec] = []
    known: dict[str, Mismatch] = {}
    screens: dict[str, float] = {}
    if loose:
        specs = [shipped_spec(name) for name in shipped_specs()] if specs is None else specs
        some = {key: kinds[key] for key in list(kinds)[:: -(-len(kinds) // _SAMPLE)]} if kinds else kinds
        screens = {spec.name: _screen(spec, some) for spec in specs}
        tried = _TRIED if len(shapes) <= MANY else _TRIED_IF_MANY
        near = sorted(specs, key=lambda spec: (model_type not in spec.model_types, -screens[spec.name]))[:tried]
        near = [spec for spec in near if screens[spec.name] > 0 or (model_type and model_type in spec.model_types)]
        known = {r.spec.name: r for r in strictly if isinstance(r, Mismatch)}
        results = [attempt(spec, shapes, request, loose=True, strictly=known.get(spec.name)) for spec in near]
    fitting = [r for r in results if isinstance(r, Layout)]
    named = [r for r in fitting if model_type and model_type in r.spec.model_types]
    chosen = [r for r in named or fitting if not any(other.spec.name in r.spec.parts for other in fitting)]
    elsewhere = [spec.name for spec in near if model_type and model_type in spec.model_types]
    if loose and chosen and elsewhere and not named:
        raise _named_otherwise(model_type, chosen[0], [r for r in results if isinstance(r, Mismatch)])
    if len(chosen) == 1:
        if not (overrides or freeze):
            return chosen[0]
        result = attempt(chosen[0].spec, shapes, Request(config, overrides, freeze, ignore), loose=loose)
        if isinstance(result, Layout):
            return result
        raise nothing_fits([result])
    if len(chosen) > 1:
        raise _tie(chosen)
    mismatches = [r for r in results if isinstance(r, Mismatch)]
    # Not if another spec covers more or is named: a tensor without a line here may have one there.
    odd = [m for m in mismatches if m.odd and screens[m.spec.name] == max(screens.values())]
    if odd and not any(model_type and model_type in m.spec.model_types for m in mismatches if m not in odd):
        raise fits_but_for(min(odd, key=lambda mismatch: len(mismatch.odd)), shapes)
    different = mismatches
    if len(shapes) <= MANY:  # what does not fit as it stands tells more than what does not fit in any form
        strict = [known.get(spec.name) or attempt(spec, shapes, request) for spec in near[:3]]
        different = [r for r in strict if isinstance(r, Mismatch)]
    # A spec with as many differences as there are tensors has nothing in common with them but a few names.
    raise nothing_fits([m for m in different if len(m.faults) < len(shapes) or model_type in m.spec.model_types])


def _covers(spec: PermutationSpec, shapes: Mapping[str, Shape]) -> bool:
    """Whether the spec has a line for every kind of key, under some prefix that all share."""
    prefixes = prefix_candidates(spec, list(shapes))
    return any(matcher_for(spec).covers(_under(prefix, shapes)) for prefix in prefixes)


def _screen(spec: PermutationSpec, shapes: Mapping[str, Shape]) -> float:
    """The share of kinds that the spec has a line for, other forms of layers included, under its best prefix."""
    best = 0.0
    for prefix in prefix_candidates(spec, list(shapes), MOST):
        best = max(best, matcher_for(spec).coverage(_under(prefix, shapes), forms=True))
        if best == 1.0:
            break
    return best


def _under(prefix: Prefix, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    return dict(zip(prefix.strip_all(shapes), shapes.values(), strict=True))


def _too_many_kinds(kinds: Mapping[str, Shape]) -> ContentError:
    shown = ", ".join(list(kinds)[:3])
    return ContentError(
        f"no architecture fits this checkpoint: its tensors have {len(kinds):,} kinds of names (numbers aside), and "
        f"more than {MOST_KINDS:,} are not looked at; the first are {shown}",
        remedy="leave the odd ones alone with --ignore PATTERN, or name a spec with --arch",
    )


def _named_otherwise(model_type: str, layout: Layout, mismatches: Sequence[Mismatch]) -> ContentError:
    faults = [m.faults[0].what for m in mismatches if model_type in m.spec.model_types and m.faults]
    return ContentError(
        f"config.json says {model_type}, whose spec does not fit, and `{layout.spec.name}` fits in another form alone",
        where=faults[0] if faults else "",
        remedy=f"if it is that network, --arch {layout.spec.name}; otherwise name its code: --network MODULE:FACTORY",
    )


def _tie(layouts: Sequence[Layout]) -> ContentError:
    rows = [
        f"  - {layout.spec.name}: {layout.spec.title or 'no title'} ({len(layout.moving())} dims would move)"
        for layout in layouts
    ]
    return ContentError(
        f"{len(layouts)} architectures fit this checkpoint equally well\n" + "\n".join(rows),
        remedy=f"say which it is: --arch {layouts[0].spec.name}",
    )
