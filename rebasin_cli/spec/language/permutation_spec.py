"""A parsed permutation spec: its lines, rules, sizes and parts, the hash of them, and the faults of one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rebasin_cli.spec.language.pattern import DimName, Pattern
from rebasin_cli.spec.language.template import Template


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, the line of the spec where it is, and what to do about it.

    Attributes:
        line: 0 if no line of the spec is to blame.
        key: the tensor without a line, if that is the fault; unlisted: no line matches its key.
        absent: the line that matches no tensor, if that is the fault.
    """

    what: str
    line: int = 0
    remedy: str = ""
    key: str = ""
    unlisted: bool = False
    absent: Line | None = None


if TYPE_CHECKING:
    from rebasin_cli.spec.language.expressions import Expression

Section = Literal["tensors", "buffers", "ignored"]

Pairs = Literal["", "halves", "neighbours"]
PAIRS: tuple[Pairs, ...] = ("halves", "neighbours")
"""What rotary embeddings pair: units i and i + n/2, or 2i and 2i + 1."""

RELU = "ReLU"
"""What keeps a positive scale: ReLU, leaky ReLU with any slope, and nothing at all."""


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

    def turned(self) -> list[DimName]:
        """The dims in it that never move and that rotations speak of."""
        return [atom.turned for atom in self.pattern.anonymous() if atom.turned] if self.pattern else []


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
class ScaleRule:
    """A dim of the `scales` section: what each of its units writes may be multiplied, and what reads it divided.

    Attributes:
        without: as of `Rule`.
        needs: what must follow the units for this to keep the function, where shapes do not tell it: `ReLU`.
    """

    name: DimName
    line: int
    without: tuple[Template, ...] = ()
    needs: str = ""


@dataclass(frozen=True, slots=True)
class RotationRule:
    """A dim of the `rotations` section: a linear map may act on all of its units together.

    Attributes:
        without: as of `Rule`.
        keeps_ones: whether the map must keep the vector of ones, as LayerNorm takes the mean away.
        pairs: of a dim that a rotary embedding turns, which units it pairs: those of both `halves`, or `neighbours`.
        owner: of such a dim, the dim it is within.
    """

    name: DimName
    line: int
    without: tuple[Template, ...] = ()
    keeps_ones: bool = False
    pairs: Pairs = ""
    owner: DimName | None = None


@dataclass(frozen=True, slots=True)
class NormRule:
    """An entry of the `norms` section: the gains of a norm, and every tensor that takes up what the norm gives.

    Attributes:
        users: the norm's bias, which has one axis, and the weights that read the norm.
    """

    gain: Template
    users: tuple[Template, ...]
    line: int


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
class Requirement:
    """What the section `require` asks of the sizes of a dim; a checkpoint that has others is not of this architecture.

    Attributes:
        equal: the dim that has as many units; more_than: how many are too few.
    """

    name: DimName
    line: int
    equal: DimName | None = None
    more_than: int = 0


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
    scales: tuple[ScaleRule, ...] = ()
    requires: tuple[Requirement, ...] = ()
    rotations: tuple[RotationRule, ...] = ()
    norms: tuple[NormRule, ...] = ()

    @property
    def sha256(self) -> str:
        """Over the canonical parsed form of what is permuted: comments, order of sections and spacing do not change it.

        `signs`, `scales` and `rotations` are no part of it: each has a hash of its own. `require` is none, either: it
        says where the spec fits, not what moves.
        """
        return _hash_of(self)

    @property
    def scales_sha256(self) -> str:
        """Over which dims may be scaled, and where this does not act or acts the other way round."""
        rules = sorted([str(rule.name), *sorted(t.text for t in rule.without)] for rule in self.scales)
        marked = sorted(
            [line.template.text, line.pattern.with_bars]
            for line in self.lines
            if line.pattern is not None and any(name.still or name.inverse for name in line.pattern.dim_names())
        )
        return hashlib.sha256(json.dumps([rules, marked]).encode()).hexdigest()

    @property
    def rotations_sha256(self) -> str:
        """Over which dims may be rotated, what takes up the gains of norms, and where maps act the other way round."""
        rules = sorted(
            [str(r.name), f"{r.keeps_ones}{r.pairs}{r.owner}", *sorted(t.text for t in r.without)]
            for r in self.rotations
        )  # fmt: skip
        norms = sorted([norm.gain.text, *sorted(t.text for t in norm.users)] for norm in self.norms)
        turned = sorted(line.pattern.with_bars for line in self.lines if line.pattern and line.turned())
        return hashlib.sha256(json.dumps([rules, norms, turned, self.scales_sha256]).encode()).hexdigest()

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
