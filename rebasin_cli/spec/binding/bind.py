"""A spec and a checkpoint's shapes, bound under the prefix that fits best.

A prefix of the keys is a wrapper of a training framework, or one that the spec lists, or both.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil
from typing import Protocol

from rebasin_cli.process import collection_paused
from rebasin_cli.spec.binding.binder import PLAIN, Binder, Request
from rebasin_cli.spec.binding.claims import Matcher, Shape, count_kinds
from rebasin_cli.spec.binding.layout import Layout
from rebasin_cli.spec.binding.left_over import (
    MOST_FAULTS,
    Mismatch,
    beginnings,
    count_beginning,
    first_without_line,
    keys_matching,
    lines_without_kind,
    mismatch_error,
    require_matches,
)
from rebasin_cli.spec.language.permutation_spec import Fault, PermutationSpec
from rebasin_cli.spec.language.template import skeleton_of, skeletons_of

MANY = 10_000
"""Tensors beyond which a spec is not bound if its lines show that it cannot fit, and only the nearest are tried."""

_NUMBERED = re.compile(r"[\d#]")


@lru_cache(maxsize=512)
def matcher_for(spec: PermutationSpec) -> Matcher:
    """The matcher of a spec, built once."""
    return Matcher(spec)


@collection_paused()
def bind(
    spec: PermutationSpec,
    shapes: Mapping[str, Shape],
    request: Request = PLAIN,
) -> Layout:
    """Bind `spec` to a checkpoint's shapes.

    Raises:
        ContentError: they do not fit; the message lists what is left over on either side.
        UsageError: the request's `overrides`, `freeze` or `ignore` name something that does not exist.
    """
    require_matches(request.ignore, shapes)
    if request.rotations and any(rule.pairs for rule in spec.rotations):
        from rebasin_cli.spec.language.turning import with_turned  # which few are asked for

        return replace(_bound(with_turned(spec), shapes, request), spec=spec)
    return _bound(spec, shapes, request)


def _bound(spec: PermutationSpec, shapes: Mapping[str, Shape], request: Request) -> Layout:
    result = attempt(spec, shapes, request)
    if isinstance(result, Layout):
        return result
    loose = attempt(spec, shapes, request, loose=True, strictly=result)
    if isinstance(loose, Layout):
        return loose
    raise mismatch_error(loose if loose.odd else result)


def attempt(
    spec: PermutationSpec,
    shapes: Mapping[str, Shape],
    request: Request,
    *,
    loose: bool = False,
    strictly: Mismatch | None = None,
) -> Layout | Mismatch:
    """Bind `spec` under the prefix that fits best; a `Mismatch` says why it does not fit.

    Args:
        loose: also take wrappers that only most keys have, other forms of known layers (see `reparametrised` and
            `transposed`), a BatchNorm that was folded away, and scalars that no line matches.
        strictly: the result of the same attempt that was not loose.
    """
    left = keys_matching(request.ignore, shapes) | (set(request.apart) & shapes.keys())
    kept = {key: shape for key, shape in shapes.items() if key not in left} if left else shapes
    matcher = matcher_for(spec)
    screens = {p: _screen(matcher, p, kept, loose) for p in prefix_candidates(spec, list(kept), MOST if loose else 1.0)}
    worth = _worth_binding(screens)
    if not worth:
        nearest = max(screens, key=lambda prefix: screens[prefix].share)
        faults = first_without_line(matcher, kept, nearest, screens[nearest].covered)
        return Mismatch(spec, str(nearest), tuple(faults))
    counters = scalars_without_line(matcher, kept, worth) if loose else ()
    mismatches: dict[Prefix, Mismatch] = {}
    for prefix in worth:
        if strictly is not None and strictly.claimed and strictly.prefix == str(prefix):
            mismatches[prefix] = strictly  # every tensor has a line, so that there is nothing to be loose about
            continue
        if len(kept) > MANY and (lacking := screens[prefix].lacking(spec)):
            mismatches[prefix] = Mismatch(spec, str(prefix), tuple(lacking))
            continue
        result = Binder(matcher, shapes, left, prefix, request, loose, counters).run()
        if isinstance(result, Layout):
            return result
        mismatches[prefix] = result
    if not loose:
        return _nearest(mismatches)
    from rebasin_cli.spec.binding.transposed import transposed

    other = transposed(spec)
    for prefix, mismatch in mismatches.items():
        if other is None or not mismatch.filled:  # a line matches the same names either way
            continue
        result = Binder(matcher_for(other), shapes, left, prefix, request, loose, counters).run()
        if isinstance(result, Layout):
            note = f"linear layers are stored the other way round than `{spec.name}` says, and are read so"
            return replace(result, spec=spec, notes=(*result.notes, note))
    return _nearest(mismatches)


def _nearest(mismatches: Mapping[Prefix, Mismatch]) -> Mismatch:
    return min(mismatches.values(), key=lambda mismatch: len(mismatch.faults))


@dataclass(frozen=True, slots=True)
class _Screen:
    """What counts tell of a spec under a prefix.

    Attributes:
        covered: kinds of tensors (skeleton and number of axes), and whether they have a line; share: of those that do.
        without: tensors that surely have no line. Scalars do not count, as they may be counters.
        kinds: of every kind one name, with its skeleton; derived: whether some are covered as another form of a layer.
    """

    covered: Mapping[tuple[str, int], bool]
    without: int
    kinds: Mapping[str, str]
    derived: bool

    @property
    def share(self) -> float:
        return sum(self.covered.values()) / len(self.covered) if self.covered else 0.0

    def lacking(self, spec: PermutationSpec) -> Sequence[Fault]:
        """The required lines that no kind fits; none where another form of a layer may stand for them."""
        return [] if self.derived else lines_without_kind(spec, self.kinds)


def _worth_binding(screens: Mapping[Prefix, _Screen]) -> Sequence[Prefix]:
    """The prefixes that pass the quick screen; if none does, of the four nearest those that may nearly fit.

    Under the others the binder would only find that too many tensors have no line.
    """
    passing = [prefix for prefix, screen in screens.items() if screen.share == 1.0]
    nearest = sorted(screens, key=lambda prefix: -screens[prefix].share)[:4]
    worth = passing or [prefix for prefix in nearest if screens[prefix].without < MOST_FAULTS]
    alike = {(str(prefix), tuple(screens[prefix].kinds)): prefix for prefix in reversed(worth)}
    return [prefix for prefix in worth if prefix in alike.values()]  # a wrapper may be the spec's own prefix


def _screen(matcher: Matcher, prefix: Prefix, shapes: Mapping[str, Shape], forms: bool) -> _Screen:
    lengths = tuple(map(len, shapes.values()))
    stripped: dict[str, Shape] = {}
    if _NUMBERED.search(str(prefix)):  # of one kind of keys some have the prefix and some have not
        kinds = count_kinds(tuple(prefix.strip_all(shapes)), lengths)
    else:
        kinds = tuple((prefix.strip(key), axes, n) for key, axes, n in count_kinds(tuple(shapes), lengths))
    covered: dict[tuple[str, int], bool] = {}
    without, derived = 0, False
    names: dict[str, str] = {}
    for name, axes, tensors in kinds:
        kind = (skeleton_of(name), axes)
        names[name] = kind[0]
        if kind not in covered:
            covered[kind] = bool(matcher.candidates(name, axes))
            if forms and not covered[kind]:
                from rebasin_cli.spec.binding.reparametrised import may_be_derived

                if may_be_derived(name):
                    stripped = stripped or dict(zip(prefix.strip_all(shapes), shapes.values(), strict=True))
                    covered[kind] = bool(matcher.derived(name, stripped))
                    derived = derived or covered[kind]
        if axes and not covered[kind] and not matcher.exact.get(kind[0]):
            without += tensors
    return _Screen(covered, without, names, derived)


def scalars_without_line(matcher: Matcher, shapes: Mapping[str, Shape], prefixes: Iterable[Prefix]) -> Collection[str]:
    """The scalars whose names are like those of no line under any prefix: counters, of which there may be many."""
    from rebasin_cli.spec.binding.reparametrised import may_be_derived

    scalars = [key for key, shape in shapes.items() if not shape and not may_be_derived(key)]
    skeletons = skeletons_of(scalars)
    cuts = [Prefix(), *(Prefix(skeleton_of(p.wrapper), skeleton_of(p.own), p.inside) for p in prefixes)]
    named = {kind for kind in set(skeletons) if any(matcher.named(cut.strip(kind)) for cut in cuts)}
    return {key for key, kind in zip(scalars, skeletons, strict=True) if kind not in named}


WRAPPERS = (
    "module.", "_orig_mod.", "model.", "base_model.model.", "base_model.", "network.", "net.", "student.", "teacher.",
    "ema.", "model_ema.", "backbone.", "encoder_q.", "state_dict.",
)  # fmt: skip
"""Prefixes that training frameworks add to every key (DDP, torch.compile, Lightning, PEFT, …)."""


_INSIDE_WORDS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_INSIDE = re.compile(rf"(?<![^.])(?:{'|'.join(_INSIDE_WORDS)})\.")
"""Wrappers around a submodule: `features.module.0.weight`."""

MOST = 0.3
"""Least share of the keys that have the wrapper, if not all do. The rest are counters, weights of a loss, or a second
network (a momentum encoder has as many keys as the first, and its queue is one more)."""

_TRIED = 12  # wrappers that only some keys have


@dataclass(frozen=True, slots=True)
class Prefix:
    """A wrapper of the keys, then perhaps a prefix from the spec on some of them.

    Attributes:
        inside: whether wrappers within the keys are removed as well.
    """

    wrapper: str = ""
    own: str = ""
    inside: bool = False

    def __str__(self) -> str:
        return self.wrapper + self.own

    def strip(self, key: str) -> str:
        """The key as the spec's templates know it."""
        key = key.removeprefix(self.wrapper)
        return (without_wrappers(key) if self.inside else key).removeprefix(self.own)

    def strip_all(self, keys: Iterable[str]) -> list[str]:
        """`strip` of every key, at once: there may be 100,000."""
        wrapper, own = self.wrapper, self.own
        if self.inside:
            return [self.strip(key) for key in keys]
        return [key.removeprefix(wrapper).removeprefix(own) for key in keys] if wrapper or own else list(keys)


class WithPrefixes(Protocol):
    """A spec, or its outline."""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The prefixes that the spec lists."""


def without_wrappers(key: str) -> str:
    """A key without the wrappers in it: `features.module.0.weight` as `features.0.weight`."""
    return _INSIDE.sub("", key)


def prefix_candidates(spec: WithPrefixes, keys: Sequence[str], share: float = 1.0) -> list[Prefix]:
    """Prefixes worth trying, likeliest first; none under which two keys would become one.

    Args:
        share: of the keys that carry the wrapper, at least.
    """
    found: list[Prefix] = []
    keys = tuple(keys)
    for inside in (False, True) if _wrapped_inside(keys) else (False,):  # what keeps more of the keys comes first
        for wrapper in _wrappers(keys, share):
            found.append(Prefix(wrapper, "", inside))
            found += [p for own in spec.prefixes if _is_there(p := Prefix(wrapper, own, inside), keys)]
    return [prefix for prefix in found if prefix == Prefix() or _keeps_apart(prefix, keys)]


def _is_there(prefix: Prefix, keys: tuple[str, ...]) -> bool:
    """Whether a key begins with the prefix from the spec once wrappers are removed."""
    wrapper, own = prefix.wrapper, prefix.own
    if prefix.inside or wrapper.startswith(own):
        return any(key.startswith(own) for key in Prefix(wrapper, "", prefix.inside).strip_all(keys))
    ordered = _ordered(keys)
    either = (wrapper + own,) if own.startswith(wrapper) else (wrapper + own, own)
    return any(key.startswith(start) for start in either for key in _from(ordered, start))


def _from(ordered: Sequence[str], start: str) -> Sequence[str]:
    """The first key that begins with `start` or comes after it."""
    at = bisect_left(ordered, start)
    return ordered[at : at + 1]


@lru_cache(maxsize=4)
def _ordered(keys: tuple[str, ...]) -> list[str]:
    return sorted(keys)


@lru_cache(maxsize=64)  # the same for every spec, here and below
def _keeps_apart(prefix: Prefix, keys: tuple[str, ...]) -> bool:
    return len(set(prefix.strip_all(keys))) == len(keys)


@lru_cache(maxsize=4)
def _wrapped_inside(keys: tuple[str, ...]) -> bool:
    text = "\n".join(keys)
    return any(word in text for word in _INSIDE_WORDS) and any(_INSIDE.search(key) for key in keys)


@lru_cache(maxsize=4)
def _wrappers(keys: tuple[str, ...], share: float) -> tuple[str, ...]:
    """None, the known wrappers (nested in any order), and other prefixes that this share of the keys has."""
    if not keys:
        return ("",)
    least = max(1, ceil(share * len(keys)))
    ordered = _ordered(keys)
    # Keys with one beginning follow each other there, so that `least` of them take in one of these.
    found = dict.fromkeys(prefix for key in ordered[least - 1 :: least] for prefix in beginnings(key))
    counts = {prefix: count for prefix in found if (count := count_beginning(ordered, prefix)) >= least}
    shared = sorted(counts, key=lambda p: (next(at for at, key in enumerate(keys) if key.startswith(p)), len(p)))
    seen = {"": None}
    stack = [""]
    while stack:
        base = stack.pop(0)
        for wrapper in WRAPPERS:
            prefix = base + wrapper
            if prefix not in seen and prefix in shared:
                seen[prefix] = None
                stack.append(prefix)
    rest = sorted((p for p in shared if p not in seen), key=lambda p: -counts[p])
    return (*seen, *(rest if share == 1.0 else rest[:_TRIED]))
