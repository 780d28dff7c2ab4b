"""Which line of a spec matches which tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from rebasin_cli.spec.binding.left_over import HINTS, MOST_FAULTS, no_line_for
from rebasin_cli.spec.language import MOST_COMPARED, Bindings, Pick, Ref, Value
from rebasin_cli.spec.language.pattern import DimName, Instance, instance_of
from rebasin_cli.spec.language.permutation_spec import Fault, Line, PermutationSpec
from rebasin_cli.spec.language.template import skeleton_of, skeletons_of

if TYPE_CHECKING:
    from rebasin_cli.spec.binding.reparametrised import Form

Shape = tuple[int, ...]

_KINDS_KEPT = 10_000  # kinds of keys whose lines a matcher knows; a hostile file has a kind for every tensor


@dataclass(frozen=True, slots=True)
class Claim:
    """A tensor (key without prefix), the line that matches it, and the values of the line's variables.

    Attributes:
        form: how the tensor is derived from the weight that the line describes; None if it is that weight.
    """

    key: str
    line: Line
    bindings: Bindings
    form: Form | None = None

    @property
    def name(self) -> str:
        """The spec's own key for the tensor: the same for every spelling in the spec."""
        base = self.line.template.name(self.bindings)
        if self.form is None:
            return base or self.key
        return replace(self.form, base=base).name if base else self.key

    def as_stored(self, shapes: Mapping[str, Shape]) -> Claim:
        """The claim with a line whose pattern describes the tensor as it is stored."""
        form, pattern = self.form, self.line.pattern
        if form is None or pattern is None:
            return self
        from rebasin_cli.spec.binding.reparametrised import weight_shape

        own = form.pattern(pattern, shapes[self.key], weight_shape(form.base, shapes))
        return replace(self, line=replace(self.line, pattern=own, section=form.section(self.line.section)))


@dataclass(slots=True)
class Matcher:
    """The lines of one spec, indexed by skeleton, so that a key finds its candidates quickly."""

    spec: PermutationSpec
    exact: dict[str, list[Line]] = field(default_factory=dict)
    wild: list[tuple[str, str, Line]] = field(default_factory=list)
    _known: dict[tuple[str, int], tuple[Line, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for line in self.spec.lines:
            skeletons = line.template.skeletons
            if not skeletons:
                self.wild.append((*line.template.ends, line))
            for skeleton in skeletons:
                self.exact.setdefault(skeleton, []).append(line)

    def lines_for(self, skeleton: str, axes: int) -> tuple[Line, ...]:
        """The few lines whose template may match a key of this kind, and whose pattern has as many axes."""
        kind = (skeleton, axes)
        if kind not in self._known:
            if len(self._known) >= _KINDS_KEPT:
                self._known.clear()
            lines = self.named(skeleton)
            self._known[kind] = tuple(ln for ln in lines if ln.pattern is None or len(ln.pattern.axes) == axes)
        return self._known[kind]

    def named(self, skeleton: str) -> tuple[Line, ...]:
        """The lines whose template may match a key with this skeleton."""
        wild = (ln for begin, end, ln in self.wild if skeleton.startswith(begin) and skeleton.endswith(end))
        return (*self.exact.get(skeleton, ()), *wild)

    def candidates(
        self, key: str, axes: int, ends: _Ends | None = None, lines: Sequence[Line] | None = None
    ) -> list[Claim]:
        """Every line of the lowest rank that matches `key`; without `ends`, `{first i}` matches any i.

        Args:
            lines: `lines_for` the key, where the caller knows them.
        """
        claims = [
            Claim(key, line, bindings)
            for line in (self.lines_for(skeleton_of(key), axes) if lines is None else lines)
            if (bindings := line.template.match(key)) is not None
        ]
        if ends:
            claims = [claim for claim in claims if _is_at_its_ends(claim, ends)]
        if len(claims) < 2:
            return claims
        best = min(c.line.template.rank for c in claims)
        return [c for c in claims if c.line.template.rank == best]

    def derived(self, key: str, shapes: Mapping[str, Shape], ends: _Ends | None = None) -> list[Claim]:
        """The claims on the weight from which `key` is derived (see `reparametrised`)."""
        from rebasin_cli.spec.binding.reparametrised import form_of

        form = form_of(key, shapes)
        found = self.candidates(form.base, form.axes, ends) if form else []
        return [Claim(key, claim.line, claim.bindings, form) for claim in found if claim.line.pattern is not None]

    def covers(self, keys: Mapping[str, Shape]) -> bool:
        """A quick screen: whether every key has a candidate line."""
        return all(self.candidates(key, len(shape)) for key, shape in keys.items())

    def coverage(self, keys: Mapping[str, Shape], *, forms: bool = False) -> float:
        """A quick screen: the share of kinds of keys (see `one_of_each_kind`) with a candidate line."""
        kinds = one_of_each_kind(keys)
        covered = sum(
            bool(self.candidates(key, len(shape)) or (forms and self.derived(key, keys)))
            for key, shape in kinds.items()
        )
        return covered / len(kinds) if kinds else 0.0


def one_of_each_kind(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """One key of every kind (numbers and lengths aside): a mixture of experts has thousands of a few kinds."""
    return {key: shapes[key] for key, _, _ in count_kinds(tuple(shapes), tuple(map(len, shapes.values())))}


@lru_cache(maxsize=4)  # the result is the same for every spec
def count_kinds(keys: tuple[str, ...], axes: tuple[int, ...]) -> tuple[tuple[str, int, int], ...]:
    """Of every kind (see `one_of_each_kind`) the first key, its number of axes, and how many tensors there are."""
    first: dict[tuple[str, int], str] = {}
    skeletons = skeletons_of(keys)
    for key, kind in zip(keys, zip(skeletons, axes, strict=True), strict=True):
        first.setdefault(kind, key)
    counts = Counter(zip(skeletons, axes, strict=True))
    return tuple((key, kind[1], counts[kind]) for kind, key in first.items())


def claim_tensors(
    matcher: Matcher, shapes: Mapping[str, Shape], skeletons: Mapping[str, str], *, forms: bool = False
) -> tuple[dict[str, Claim], list[Fault]]:
    """Assign every tensor to one line; with `forms`, also tensors derived from a weight that has a line.

    Of several lines the one with the fewest variables wins. Of two with equally many, the one whose dims an
    unambiguous tensor names wins (in a VGG with BatchNorm `features.1.bias` can only be the
    normalisation after convolution 0, because no weight makes 1 a convolution). Of the rest, `{i}` comes before
    `{i+1}`.
    """
    claims: dict[str, Claim] = {}
    ambiguous: dict[str, list[Claim]] = {}
    faults: list[Fault] = []
    unclaimed = 0
    ends = _ends(matcher, shapes, forms=forms)
    for key, shape in shapes.items():
        lines = matcher.lines_for(skeletons[key], len(shape))
        candidates = matcher.candidates(key, len(shape), ends, lines) if lines else []
        if not candidates and forms:
            candidates = matcher.derived(key, shapes, ends)
        if len(candidates) == 1:
            claims[key] = candidates[0]
        elif candidates:
            ambiguous[key] = candidates
        else:
            lines = matcher.named(skeletons[key])
            faults.append(no_line_for(matcher, key, shape, lines, hint=len(faults) < HINTS))
            unclaimed += bool(shape)  # scalars may be counters
            if unclaimed >= MOST_FAULTS:
                return claims, faults
    defined_by = Definitions().of
    known = {instance for claim in claims.values() for instance in defined_by(claim)} if ambiguous else set()
    for key, candidates in ambiguous.items():
        dims = [defined_by(c) for c in candidates]
        # Nothing decides for a line without dims.
        fitting = [c for c, own in zip(candidates, dims, strict=True) if all(dims) and known.issuperset(own)]
        if len(fitting) > 1:
            fewest = min(_offsets(c) for c in fitting)
            fitting = [c for c in fitting if _offsets(c) == fewest]
        if len(fitting) == 1:
            claims[key] = fitting[0]
        elif len(faults) >= MOST_FAULTS:
            break
        else:
            one, two = (fitting or candidates)[:2]
            faults.append(
                Fault(
                    f"{key} is claimed by two lines alike: `{one.line.template.text}` (line {one.line.line}) "
                    f"and `{two.line.template.text}` (line {two.line.line})",
                    one.line.line,
                    "make one of them more specific: the template with fewer variables wins",
                    key,
                )
            )
    return {key: claims[key] for key in shapes if key in claims}, faults


def compared_too_often(
    matcher: Matcher, shapes: Mapping[str, Shape], skeletons: Mapping[str, str]
) -> tuple[Line, DimName] | None:
    """A line with a name that would be compared with more dims than may be, and the name.

    Known from counts, before 100,000 tensors are claimed: each of a kind brings a dim of its own into being, and each
    chooses among all of them.
    """
    if len(shapes) ** 2 <= MOST_COMPARED:
        return None
    counts = Counter(zip((skeletons[key] for key in shapes), map(len, shapes.values()), strict=True))
    for (skeleton, axes), tensors in counts.items():
        lines = matcher.lines_for(skeleton, axes) if tensors**2 > MOST_COMPARED else ()
        choices = [(line, _choice_among_own(line)) for line in lines]
        if choices and all(name for _, name in choices):
            return next((line, name) for line, name in choices if name)
    return None


def _choice_among_own(line: Line) -> DimName | None:
    """A name in the pattern of a line that chooses among dims of which each tensor of the line defines another one."""
    own = {
        (name.parts[0], len(name.parts))
        for name in _defining(line)
        if line.template.variables <= {part.variable for part in name.parts if isinstance(part, Ref)}
    }
    for name in line.pattern.dim_names() if line.pattern else ():
        if name.chooses and (name.parts[0], len(name.parts)) in own:
            return name
    return None


def _offsets(claim: Claim) -> int:
    return sum(isinstance(token, Ref) and token.offset != 0 for token in claim.line.template.tokens)


@dataclass(slots=True)
class Definitions:
    """The dims that claims define; the names in a line are found once for all its tensors.

    Attributes:
        names: of each line by its id: the line, and its dims that are named plainly or with a positive offset.
    """

    names: dict[int, tuple[Line, tuple[DimName, ...]]] = field(default_factory=dict)

    def of(self, claim: Claim) -> Collection[Instance]:
        """The dims that a claim defines, in order."""
        line = claim.line
        if id(line) not in self.names:
            self.names[id(line)] = (line, tuple(_defining(line)))
        found: dict[Instance, None] = {}  # not a set, whose order would differ from run to run
        for name in self.names[id(line)][1]:
            instance = instance_of(name, claim.bindings)
            if instance is not None:
                found[instance] = None
        return found


def _defining(line: Line) -> Iterator[DimName]:
    for name in line.pattern.dim_names() if line.pattern else ():
        refs = [part for part in name.parts if isinstance(part, Ref)]
        if all(ref.pick is Pick.SAME and ref.offset >= 0 for ref in refs):
            yield name


_Ends = dict[tuple[int, str], dict[tuple[Value, ...], tuple[Value, Value]]]


def _ends(matcher: Matcher, shapes: Mapping[str, Shape], *, forms: bool) -> _Ends:
    """First and last value of every variable that a template picks by `{first i}` or `{last i}`."""
    ends: _Ends = {}
    picks = [(line, picked) for line in matcher.spec.lines if (picked := line.template.picks())]
    if picks and forms:
        from rebasin_cli.spec.binding.reparametrised import stored_weights

        shapes = {**shapes, **stored_weights(shapes)}
    for line, picked in picks:
        for ref in picked:
            ranges: dict[tuple[Value, ...], tuple[Value, Value]] = {}
            for key, shape in shapes.items():
                bindings = line.template.match(key)
                if bindings is None or (line.pattern and len(line.pattern.axes) != len(shape)):
                    continue
                value, rest = bindings[ref.variable], _other_values(bindings, ref.variable)
                low, high = ranges.get(rest, (value, value))
                ranges[rest] = (min(low, value), max(high, value))
            ends[id(line), ref.variable] = ranges
    return ends


def _other_values(bindings: Bindings, variable: str) -> tuple[Value, ...]:
    return tuple(value for name, value in sorted(bindings.items()) if name != variable)


def _is_at_its_ends(claim: Claim, ends: _Ends) -> bool:
    """Whether every variable that the claim's template picks has the first or last value, as the template says."""
    for ref in claim.line.template.picks():
        low, high = ends[id(claim.line), ref.variable][_other_values(claim.bindings, ref.variable)]
        if claim.bindings[ref.variable] != (low if ref.pick is Pick.FIRST else high):
            return False
    return True
