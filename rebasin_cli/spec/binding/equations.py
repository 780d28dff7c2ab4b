"""Axes as sums and products of sizes, and the equations that their lengths give.

All are solved together; a contradiction names two tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from rebasin_cli.spec.language.permutation_spec import Fault


@dataclass(frozen=True, slots=True)
class Leaf:
    """A single side: the symbol of its size, and the dim it carries if it is one (`still` and `inverse`: as
    of `DimName`).

    Sizes are numbers, or the symbols `dim:conv.3`, `size:head_dim`, or one of the leaf's own (`_`).
    """

    size: int | str
    dim: str | None = None
    still: bool = False
    inverse: bool = False

    def __str__(self) -> str:
        if self.dim is not None or isinstance(self.size, int):
            return str(self.dim or self.size)
        kind, _, name = self.size.partition(":")
        return f"_:{name}" if kind == "size" else "_"


@dataclass(frozen=True, slots=True)
class Times:
    """A row-major product of sums."""

    factors: tuple[Plus, ...]

    def __str__(self) -> str:
        return f"({' '.join(map(str, self.factors))})"


@dataclass(frozen=True, slots=True)
class Plus:
    """Segments one after the other."""

    segments: tuple[Leaf | Times, ...]

    def __str__(self) -> str:
        return " + ".join(map(str, self.segments))

    def leaves(self) -> Iterable[Leaf]:
        """Every leaf, in order."""
        for segment in self.segments:
            if isinstance(segment, Leaf):
                yield segment
            else:
                for factor in segment.factors:
                    yield from factor.leaves()


@dataclass(frozen=True, slots=True)
class Equation:
    """One axis: what it consists of, its length, and its tensor."""

    axis: Plus
    length: int
    key: str
    position: int
    line: int

    @property
    def where(self) -> str:
        """`conv1.weight axis 0`."""
        return f"{self.key} axis {self.position}"


@dataclass(frozen=True, slots=True)
class Known:
    """A size, and its source."""

    value: int
    source: str
    line: int = 0


_Linear = tuple[int, dict[str, int]]


class Sizes:
    """The known sizes by symbol, and the equations that are not solved yet.

    Args:
        equal: for symbols that are one size all symbols of it; with them the length of a product that is an axis of
            its own stands for that product in other axes, so that `head · v = 12` and `head · qk + qk + v = 18` have a
            solution.
    """

    def __init__(self, equations: list[Equation], equal: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.known: dict[str, Known] = {}
        self.faults: list[Fault] = []
        self._equal = equal or {}
        self._products: dict[tuple[str, ...], tuple[int, int]] = {}
        for equation in equations if self._equal else ():
            (first, *others) = equation.axis.segments
            if isinstance(first, Times) and not others and (product := self._product(first)) is not None:
                self._products.setdefault(product[1], (product[0], equation.length))
        distinct = {(equation.axis, equation.length): equation for equation in reversed(equations)}
        self._open = list(reversed(distinct.values()))  # the weight and the bias of a norm give one equation

    def set(self, symbol: str, value: int, source: str, line: int = 0) -> None:
        """State a size; a second, different statement is a fault that names both sources."""
        before = self.known.setdefault(symbol, Known(value, source, line))
        if before.value != value:
            self._contradiction(symbol, before, Known(value, source, line))
        self.known |= dict.fromkeys(self._equal.get(symbol, ()), before)

    def propagate(self) -> None:
        """Solve equations with one unknown until none is left."""
        progress = True
        while progress and not self.faults:
            progress = False
            remaining: list[Equation] = []
            for equation in self._open:
                linear = self._linear(equation.axis)
                if linear is None or len(linear[1]) > 1:
                    remaining.append(equation)
                    continue
                open_ = {self._one(leaf) for leaf in equation.axis.leaves() if self.of(leaf) is None}
                hidden = bool(open_ - linear[1].keys())
                if hidden:  # in a product whose length is known: its factors are still to be found
                    remaining.append(equation)
                progress = bool(linear[1]) or not hidden or progress
                self._solve(equation, *linear)
            self._open = remaining
        self._compare_open()

    def admits(self, equation: Equation) -> bool:
        """Add an equation if it contradicts nothing; otherwise change nothing."""
        before = dict(self.known), list(self._open)
        self._open.append(equation)
        self.propagate()
        if self.faults:
            (self.known, self._open), self.faults = before, []
            return False
        return True

    def _compare_open(self) -> None:
        """Equal products of unknowns have equal lengths, whatever the factors are."""
        first: dict[Plus, Equation] = {}
        for equation in self._open if not self.faults else ():
            other = first.setdefault(equation.axis, equation)
            if other.length != equation.length:
                self.faults.append(
                    Fault(
                        f"{equation.where} has {equation.length} units, but {other.where}, which consists of the same "
                        f"dims, has {other.length}",
                        equation.line,
                    )
                )

    def unknown(self) -> Iterator[str]:
        """Unknown symbols of the unsolved equations."""
        for equation in self._open:
            for leaf in equation.axis.leaves():
                if isinstance(leaf.size, str) and leaf.size not in self.known:
                    yield leaf.size

    def of(self, leaf: Leaf) -> int | None:
        """The size of a leaf, or None."""
        if isinstance(leaf.size, int):
            return leaf.size
        found = self.known.get(leaf.size)
        return found.value if found else None

    def total(self, part: Plus | Leaf | Times) -> int | None:
        """The length of a part, or None where something in it is unknown."""
        if isinstance(part, Leaf):
            return self.of(part)
        if isinstance(part, Times):
            result = 1
            for factor in part.factors:
                length = self.total(factor)
                if length is None:
                    return None
                result *= length
            return result
        lengths = [self.total(segment) for segment in part.segments]
        return None if any(n is None for n in lengths) else sum(n for n in lengths if n is not None)

    def _solve(self, equation: Equation, constant: int, coefficients: Mapping[str, int]) -> None:
        if not coefficients:
            if constant != equation.length:
                self._does_not_add_up(equation, constant)
            return
        ((symbol, factor),) = coefficients.items()
        rest = equation.length - constant
        nothing_left = rest < 0 or (rest == 0 and constant == 0)  # a segment may be empty, an axis may not
        if nothing_left or rest % factor:
            self.faults.append(
                Fault(
                    f"{equation.where} has {equation.length} units, which is not {_term(constant, factor)}"
                    f"{_described(symbol)}{self._because(equation.axis)}",
                    equation.line,
                    "check the sizes that config.json or --set give, and the pattern of this line",
                )
            )
            return
        self.set(symbol, rest // factor, equation.where, equation.line)

    def _does_not_add_up(self, equation: Equation, constant: int) -> None:
        leaves = [leaf for leaf in equation.axis.leaves() if isinstance(leaf.size, str)]
        if len(leaves) == 1 and len(equation.axis.segments) == 1 and isinstance(equation.axis.segments[0], Leaf):
            symbol = str(leaves[0].size)
            self._contradiction(symbol, self.known[symbol], Known(equation.length, equation.where, equation.line))
            return
        self.faults.append(
            Fault(
                f"{equation.where} has {equation.length} units, its pattern makes {constant}"
                f"{self._because(equation.axis)}",
                equation.line,
            )
        )

    def _because(self, axis: Plus) -> str:
        facts = []
        for symbol in dict.fromkeys(leaf.size for leaf in axis.leaves() if isinstance(leaf.size, str)):
            if symbol in self.known:
                facts.append(f"{_described(symbol)} is {self.known[symbol].value} by {self.known[symbol].source}")
        return f" ({'; '.join(facts)})" if facts else ""

    def _contradiction(self, symbol: str, first: Known, second: Known) -> None:
        self.faults.append(
            Fault(
                f"{_described(symbol)} is {first.value} by {first.source}, but {second.value} by {second.source}",
                second.line or first.line,
                "both must be the same number for the axes to move together",
            )
        )

    def _linear(self, part: Plus | Leaf | Times) -> _Linear | None:
        """`constant + Σ coefficient·unknown`, or None where unknowns multiply each other."""
        if isinstance(part, Leaf):
            value = self.of(part)
            return (value, {}) if value is not None else (0, {self._one(part): 1})
        if isinstance(part, Plus):
            constant, coefficients = 0, dict[str, int]()
            for segment in part.segments:
                linear = self._linear(segment)
                if linear is None:
                    return None
                constant += linear[0]
                for symbol, factor in linear[1].items():
                    coefficients[symbol] = coefficients.get(symbol, 0) + factor
            return constant, coefficients
        product: _Linear = (1, {})
        for factor_ in part.factors:
            linear = self._linear(factor_)
            if linear is None or (linear[1] and product[1]):
                return self._whole(part)
            c, k = (product, linear) if product[1] else (linear, product)
            # c may hold an unknown, k is a plain number
            product = (c[0] * k[0], {symbol: factor * k[0] for symbol, factor in c[1].items() if k[0]})
        return product

    def _one(self, leaf: Leaf) -> str:
        """The symbol of a leaf, the same for all that are one size."""
        return self._equal.get(str(leaf.size), (str(leaf.size),))[0]

    def _product(self, part: Times) -> tuple[int, tuple[str, ...]] | None:
        """A product of numbers and symbols: the number, and the symbols in order; None if there are sums in it."""
        constant, symbols = 1, list[str]()
        for factor in part.factors:
            (first, *others) = factor.segments
            inner = self._product(first) if isinstance(first, Times) else None
            if others or (isinstance(first, Times) and inner is None):
                return None
            if isinstance(first, Leaf) and isinstance(first.size, int):
                constant *= first.size
            else:
                constant *= inner[0] if inner else 1
                symbols += inner[1] if inner else (self._one(first),) if isinstance(first, Leaf) else ()
        return constant, tuple(sorted(symbols))

    def _whole(self, part: Times) -> _Linear | None:
        """The length of a product that is an axis of its own elsewhere."""
        product = self._product(part) if self._products else None
        constant, length = self._products.get(product[1], (1, 0)) if product else (1, 0)
        return (length * product[0] // constant, {}) if product and length and not length % constant else None


def _described(symbol: str) -> str:
    kind, _, name = symbol.partition(":")
    return {"dim": f"dim {name}", "size": f"size {name}", "_": "the rest"}[kind]


def _term(constant: int, factor: int) -> str:
    start = f"{constant} + " if constant else ""
    return f"{start}{factor} × " if factor != 1 else f"{start}a whole number of "
