"""A parsed permutation spec: its lines, rules and sizes, and the hash of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from rebasin_cli.spec.language.expressions import Expression
from rebasin_cli.spec.language.pattern import DimName, Pattern
from rebasin_cli.spec.language.template import Template

Section = Literal["tensors", "buffers", "ignored"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a section: a key template, and what the tensor's axes are.

    Attributes:
        needed_with: it may be absent where no key begins with this (an optional part of a checkpoint).
    """

    template: Template
    pattern: Pattern | None
    section: Section
    line: int
    needed_with: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the `dims` section.

    Attributes:
        owner: the dim it is within.
        index: (variable, template): it acts on that variable of the keys.
        same_as: the dim it is another name of.
        if_equal: only in checkpoints in which both have equally many units.
        fixed: why it never moves; empty where it may.
        without: the rule holds only in checkpoints in which no key fits one of these.
    """

    name: DimName
    line: int
    owner: DimName | None = None
    index: tuple[str, Template] | None = None
    same_as: DimName | None = None
    if_equal: bool = False
    fixed: str = ""
    without: tuple[Template, ...] = ()


@dataclass(frozen=True, slots=True)
class SignRule:
    """A dim of the `signs` section: each of its units may have its sign turned.

    Attributes:
        without: as of `Rule`.
    """

    name: DimName
    line: int
    without: tuple[Template, ...] = ()


@dataclass(frozen=True, slots=True)
class SizeRule:
    """A rule of the `sizes` section about a named size or a dim: the first expression that has a value counts.

    Attributes:
        part: the part of the checkpoint whose sizes and section of config.json the expressions refer to.
    """

    name: DimName
    choices: tuple[Expression, ...]
    line: int
    part: str = ""


@dataclass(frozen=True, slots=True)
class Shorthand:
    """A name in the `axes` section, and the axis that it stands for."""

    name: DimName
    pattern: Pattern
    line: int


@dataclass(frozen=True, slots=True, eq=False)
class PermutationSpec:
    """A permutation spec, parsed: which axes of which tensors of an architecture move together.

    Attributes:
        stays: what never moves in this family and why, as text for users.
        shipped: whether it is one of the specs that come with the program (its tests prove them).
        parts: the names of the specs that it puts together.
        text: its YAML, where it does not ship and stands by itself: it goes into what is made with it.
    """

    name: str
    title: str
    path: Path
    shipped: bool
    lines: tuple[Line, ...]
    rules: tuple[Rule, ...]
    sizes: tuple[SizeRule, ...]
    prefixes: tuple[str, ...]
    model_types: tuple[str, ...]
    stays: tuple[tuple[str, str], ...]
    shorthands: tuple[Shorthand, ...] = ()
    parts: tuple[str, ...] = ()
    text: str = ""
    signs: tuple[SignRule, ...] = ()

    @property
    def sha256(self) -> str:
        """Over the canonical parsed form of what is permuted: comments, order of sections and spacing do not change it.

        `signs` are no part of it: they have a hash of their own.
        """
        return _hash_of(self)

    @property
    def signs_sha256(self) -> str:
        """Over which dims may have signs turned, and where these act."""
        rules = sorted([str(rule.name), *sorted(t.text for t in rule.without)] for rule in self.signs)
        still = sorted(
            [line.template.text, *(number for number, name in enumerate(line.pattern.dim_names()) if name.still)]
            for line in self.lines
            if line.pattern is not None and any(name.still for name in line.pattern.dim_names())
        )
        return hashlib.sha256(json.dumps([rules, still]).encode()).hexdigest()

    def at(self, line: int) -> str:
        """`file.yaml:12`, for messages."""
        return f"{self.path.name}:{line}"


@lru_cache(maxsize=512)
def _hash_of(spec: PermutationSpec) -> str:
    """Of the few specs that are asked for theirs, out of all that are tried on a checkpoint."""
    form: dict[str, Any] = {
        "lines": sorted(
            [ln.section, ln.template.text, ln.template.family, "" if ln.pattern is None else str(ln.pattern)]
            + ([ln.needed_with] if ln.needed_with else [])
            for ln in spec.lines
        ),
        "rules": sorted(
            [
                str(r.name),
                str(r.owner),
                f"{r.same_as}{' if equal' if r.if_equal else ''}",
                bool(r.fixed),
                str(r.index and (r.index[0], r.index[1].text)),
                *sorted(t.text for t in r.without),
            ]
            for r in spec.rules
        ),
        "sizes": sorted([str(s.name), [str(e) for e in s.choices]] for s in spec.sizes),
    }
    if spec.shorthands:
        form["axes"] = sorted([str(s.name), str(s.pattern)] for s in spec.shorthands)
    return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()
