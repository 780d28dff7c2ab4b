"""Patterns: what the axes of a tensor are made of, parsed once into an immutable tree.

    pattern := axis (space axis)*             one per axis of the tensor, in order
    axis    := segment ('+' segment)*         one after the other along the axis
    segment := '_' [':' size] | INT | ['/'] dim [':' size] | '|' dim '|' | '(' axis (space axis)* ')'
                                                '( )': row-major product, outermost first; '| |': neither sign nor scale
                                                of a unit acts; '/': its scale divides where it would multiply, and
                                                multiplies where it divides; a dim with a size never moves, as '_', and
                                                has a name for rotations

After einops (Rogozhnikov, ICLR 2022): an axis says what it consists of, and the sizes follow from the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from rebasin_cli.spec.language import LARGEST_SIZE, Bindings, Pick, Ref, Value, parse_ref

_TOKEN = re.compile(
    r"\s*(?:(?P<open>\()|(?P<close>\))|(?P<plus>\+)"
    r"|(?P<anonymous>_(?![\w.{])(?::(?P<size>\d+(?!\w)|[A-Za-z]\w*))?)"
    r"|(?P<number>\d+)(?![\w.{])"
    r"|(?P<turned>/?\s*[A-Za-z](?:[\w.]|\{[^{}]*\})*):(?P<turned_size>[A-Za-z]\w*)"
    r"|/\s*(?P<inverse>[A-Za-z](?:[\w.]|\{[^{}]*\})*)"
    r"|\|\s*(?P<still>[A-Za-z](?:[\w.]|\{[^{}]*\})*)\s*\|"
    r"|(?P<dim>[A-Za-z](?:[\w.]|\{[^{}]*\})*))"
)


_KINDS = ("open", "close", "plus", "anonymous", "number", "turned", "inverse", "still", "dim")


@dataclass(frozen=True, slots=True)
class Anonymous:
    """A side that never moves; `size` is a number, a name from `sizes`, or None for whatever is left.

    Attributes:
        turned: the dim by which rotations speak of its units, which a rotary embedding turns in pairs.
    """

    size: int | str | None = None
    turned: DimName | None = None

    def __str__(self) -> str:
        if isinstance(self.size, int):
            return str(self.size)
        return "_" if self.size is None else f"_:{self.size}"


@dataclass(frozen=True, slots=True)
class DimName:
    """A dim's name as a spec writes it: `kv.{i}`, `g.{b}.{<l}`, `embed`.

    Attributes:
        still: whether neither sign nor scale of a unit acts where it stands here, `|embed|`.
        inverse: whether its scale acts the other way round, `/qk.{i}`.
    """

    parts: tuple[str | Ref, ...]
    still: bool = False
    inverse: bool = False

    def __str__(self) -> str:
        return ".".join(map(str, self.parts))

    @property
    def variables(self) -> frozenset[str]:
        """The variables of its references (`{*}` has none)."""
        return frozenset(p.variable for p in self.parts if isinstance(p, Ref) and p.pick is not Pick.ALL)

    @property
    def chooses(self) -> bool:
        """Whether a reference chooses among the values observed (`{prev c}`, `{<l}`)."""
        return any(isinstance(part, Ref) and part.pick is not Pick.SAME for part in self.parts)


@dataclass(frozen=True, slots=True)
class Product:
    """`(a b c)`: the row-major product of its factors."""

    factors: tuple[Axis, ...]

    def __str__(self) -> str:
        return f"({' '.join(map(str, self.factors))})"


Atom = Anonymous | DimName
Segment = Atom | Product
Replace = Callable[[Atom], Iterable[Segment]]


@dataclass(frozen=True, slots=True)
class Axis:
    """Segments one after the other."""

    segments: tuple[Segment, ...]

    def __str__(self) -> str:
        return " + ".join(map(str, self.segments))

    def walk(self) -> Iterator[Segment]:
        """Every segment, those inside products included, in order."""
        for segment in self.segments:
            yield segment
            for factor in segment.factors if isinstance(segment, Product) else ():
                yield from factor.walk()

    def replaced(self, replace: Replace) -> Axis:
        """The axis with every atom, those inside products included, replaced by segments."""
        segments: list[Segment] = []
        for segment in self.segments:
            if isinstance(segment, Product):
                segments.append(Product(tuple(factor.replaced(replace) for factor in segment.factors)))
            else:
                segments += replace(segment)
        return Axis(tuple(segments))


@dataclass(frozen=True, slots=True)
class Pattern:
    """One axis expression for every axis of a tensor."""

    axes: tuple[Axis, ...]

    def __str__(self) -> str:
        return " ".join(map(str, self.axes))

    @property
    def with_bars(self) -> str:
        """Its text with the marks of signs and scales, which are no part of what is permuted."""

        def marked(atom: Atom) -> Iterable[Segment]:
            name = atom.turned if isinstance(atom, Anonymous) else atom
            if name is None:
                return (atom,)
            size = f":{atom.size}" if isinstance(atom, Anonymous) else ""
            return (DimName(((f"|{name}|" if name.still else f"/{name}" if name.inverse else str(name)) + size,)),)

        return str(self.replaced(marked))

    def dim_names(self) -> Iterator[DimName]:
        """Every dim in it, in order, repeats included."""
        return (segment for axis in self.axes for segment in axis.walk() if isinstance(segment, DimName))

    def anonymous(self) -> Iterator[Anonymous]:
        """Every side in it that never moves."""
        return (segment for axis in self.axes for segment in axis.walk() if isinstance(segment, Anonymous))

    def size_names(self) -> Iterator[str]:
        """Every named size in it."""
        return (atom.size for atom in self.anonymous() if isinstance(atom.size, str))

    def replaced(self, replace: Replace) -> Pattern:
        """The pattern with every atom replaced by segments."""
        return Pattern(tuple(axis.replaced(replace) for axis in self.axes))


def parse_pattern(text: str) -> Pattern:
    """Parse a pattern.

    Raises:
        ValueError: with the text and the character where it stops making sense.
    """
    reader = _Reader(text)
    axes = reader.axes()
    if reader.kind is not None:
        raise reader.error("unexpected `)`" if reader.kind == "close" else f"unexpected `{reader.token}`")
    return Pattern(axes)


def parse_dim_name(text: str) -> DimName:
    """Parse a dim's name on its own, as the `dims` section has it."""
    match = _TOKEN.fullmatch(text.strip())
    if match is None or not match["dim"]:
        raise ValueError(f"`{text}` is not a dim's name: a letter, then letters, digits, dots and {{…}}")
    return _dim_name(match["dim"])


def _dim_name(text: str) -> DimName:
    parts: list[str | Ref] = []
    for piece in re.findall(r"(?:\{[^{}]*\}|[^.{}])+|\.(?=\.|$)", text):
        if piece.startswith("{") and piece.endswith("}"):
            parts.append(parse_ref(piece[1:-1]))
        elif "{" in piece or piece == ".":
            raise ValueError(f"`{text}`: a dim's name is words and {{…}} with dots between them")
        else:
            parts.append(piece)
    return DimName(tuple(parts))


class _Reader:
    """A recursive-descent reader over the tokens of one pattern."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.kind: str | None = None
        self.token = ""
        self.size: str | None = None
        self.advance()

    def error(self, problem: str) -> ValueError:
        return ValueError(f"`{self.text}`: {problem} at character {self.position - len(self.token) + 1}")

    def advance(self) -> None:
        if not self.text[self.position :].strip():
            self.kind, self.token = None, ""
            return
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            at = len(self.text) - len(self.text[self.position :].lstrip())
            raise ValueError(f"`{self.text}`: cannot read `{self.text[at:]}` at character {at + 1}")
        self.position = match.end()
        self.kind = next(k for k in _KINDS if match[k])
        self.token = match[self.kind]
        self.size = match["size"] or match["turned_size"]

    def axes(self) -> tuple[Axis, ...]:
        axes: list[Axis] = []
        while self.kind not in (None, "close"):
            axes.append(self.axis())
        return tuple(axes)

    def axis(self) -> Axis:
        segments = [self.segment()]
        while self.kind == "plus":
            self.advance()
            segments.append(self.segment())
        return Axis(tuple(segments))

    def segment(self) -> Segment:
        kind, token, size = self.kind, self.token, self.size
        if kind == "open":
            opened = self.position
            self.advance()
            factors = self.axes()
            if self.kind != "close":
                raise ValueError(f"`{self.text}`: the `(` at character {opened} is not closed")
            if not factors:
                raise self.error("an empty `()`")
            self.advance()
            return Product(factors)
        if kind in (None, "plus", "close"):
            raise self.error(f"a part is missing before `{token}`" if token else "a part is missing")
        number = token if kind == "number" else size if size is not None and size.isdigit() else None
        if number is not None and not (len(number) <= 10 and 1 <= int(number) <= LARGEST_SIZE):
            raise self.error(f"a side of size {number[:20]}")
        try:
            if kind == "turned":
                name = _dim_name(token.removeprefix("/").strip())
                atom: Atom = Anonymous(size, replace(name, inverse=token.startswith("/")))
            elif kind in ("dim", "still", "inverse"):
                atom = replace(_dim_name(token), still=kind == "still", inverse=kind == "inverse")
            else:
                atom = Anonymous(size if number is None else int(number))
        except ValueError as error:
            raise self.error(f"{error}, which stands") from error
        self.advance()
        return atom


Instance = tuple[Value, ...]


def instance_of(name: DimName, bindings: Bindings) -> Instance | None:
    """The instance that a name without choices stands for; None where it has `{prev i}`, `{*}` and the like."""
    parts: list[Value] = []
    for part in name.parts:
        if isinstance(part, str):
            parts.append(int(part) if part.isdigit() else part)
        elif part.pick is not Pick.SAME or part.variable not in bindings:
            return None
        else:
            parts.append(part.value(bindings))
    return tuple(parts)


def dim_text(instance: Instance) -> str:
    """`("conv", 3)` as `conv.3`."""
    return ".".join(map(str, instance))


def in_order(instances: Iterable[Instance]) -> list[Instance]:
    """The instances sorted by their values, numbers before words."""
    return sorted(instances, key=lambda instance: [rank(value) for value in instance])


def rank(value: Value) -> tuple[int, int, str]:
    """The key by which values are sorted: numbers before words."""
    return (0, value, "") if isinstance(value, int) else (1, 0, value)
