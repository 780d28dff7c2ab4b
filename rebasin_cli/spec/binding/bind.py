"""A spec and a checkpoint's shapes, bound under the prefix that fits best."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from rebasin_cli.garbage import collection_paused
from rebasin_cli.spec.binding.binder import Binder
from rebasin_cli.spec.binding.claims import MOST_FAULTS, Matcher, Shape, count_kinds
from rebasin_cli.spec.binding.ignore_patterns import keys_matching, require_matches
from rebasin_cli.spec.binding.layout import Layout
from rebasin_cli.spec.binding.mismatch import Mismatch, mismatch_error
from rebasin_cli.spec.binding.prefixes import MOST, Prefix, prefix_candidates
from rebasin_cli.spec.binding.reparametrised import may_be_derived
from rebasin_cli.spec.binding.request import Request
from rebasin_cli.spec.binding.transposed import transposed
from rebasin_cli.spec.language.permutation_spec import PermutationSpec
from rebasin_cli.spec.language.template import skeleton_of

_NUMBERED = re.compile(r"[\d#]")


@lru_cache(maxsize=512)
def matcher_for(spec: PermutationSpec) -> Matcher:
    """The matcher of a spec, built once."""
    return Matcher(spec)


@collection_paused()
def bind(
    spec: PermutationSpec,
    shapes: Mapping[str, Shape],
    *,
    config: Mapping[str, Any] | None = None,
    overrides: Mapping[str, int] | None = None,
    freeze: Sequence[str] = (),
    ignore: Sequence[str] = (),
    apart: Collection[str] = (),
    still: Mapping[str, str] | None = None,
) -> Layout:
    """Bind `spec` to a checkpoint's shapes; see `Request` for the arguments.

    Raises:
        ContentError: they do not fit; the message lists what is left over on either side.
        UsageError: `overrides`, `freeze` or `ignore` name something that does not exist.
    """
    require_matches(ignore, shapes)
    request = Request(config, overrides, freeze, ignore, apart, still or {})
    result = attempt(spec, shapes, request)
    if isinstance(result, Layout):
        return result
    loose = attempt(spec, shapes, request, loose=True)
    if isinstance(loose, Layout):
        return loose
    raise mismatch_error(loose if loose.odd else result)


def attempt(
    spec: PermutationSpec, shapes: Mapping[str, Shape], request: Request, *, loose: bool = False
) -> Layout | Mismatch:
    """Bind `spec` under the prefix that fits best; a `Mismatch` says why it does not fit.

    Args:
        loose: also take wrappers that only most keys have, other forms of known layers (see `reparametrised` and
            `transposed`), a BatchNorm that was folded away, and scalars that no line matches.
    """
    left = keys_matching(request.ignore, shapes) | (set(request.apart) & shapes.keys())
    kept = {key: shape for key, shape in shapes.items() if key not in left} if left else shapes
    matcher = matcher_for(spec)
    prefixes = prefix_candidates(spec, list(kept), MOST if loose else 1.0)
    mismatches: dict[Prefix, Mismatch] = {}
    for prefix in _worth_binding(matcher, prefixes, kept, loose):
        result = Binder(matcher, shapes, left, prefix, request, loose).run()
        if isinstance(result, Layout):
            return result
        mismatches[prefix] = result
    other = transposed(spec) if loose else None
    for prefix, mismatch in mismatches.items():
        if other is None or not mismatch.claimed:  # a line matches the same names either way
            continue
        result = Binder(matcher_for(other), shapes, left, prefix, request, loose).run()
        if isinstance(result, Layout):
            note = f"linear layers are stored the other way round than `{spec.name}` says, and are read so"
            return replace(result, spec=spec, notes=(*result.notes, note))
    return min(mismatches.values(), key=lambda mismatch: len(mismatch.faults))


def _worth_binding(
    matcher: Matcher, prefixes: Sequence[Prefix], shapes: Mapping[str, Shape], loose: bool
) -> Sequence[Prefix]:
    """The prefixes that pass the quick screen; if none does, of the four nearest those that may nearly fit.

    Under the others the binder would only find that too many tensors have no line: that is found once, for the nearest.
    """
    screens = {prefix: _screen(matcher, prefix, shapes, loose) for prefix in prefixes}
    passing = [prefix for prefix in prefixes if screens[prefix][0] == 1.0]
    nearest = sorted(prefixes, key=lambda prefix: -screens[prefix][0])[:4]
    return passing or [prefix for prefix in nearest if screens[prefix][1] < MOST_FAULTS] or nearest[:1]


def _screen(matcher: Matcher, prefix: Prefix, shapes: Mapping[str, Shape], forms: bool) -> tuple[float, int]:
    """The share of kinds of tensors that have a line under a prefix, and how many tensors surely have none.

    Scalars do not count among the latter, as they may be counters.
    """
    lengths = tuple(map(len, shapes.values()))
    stripped: dict[str, Shape] = {}
    if _NUMBERED.search(str(prefix)):  # of one kind of keys some have the prefix and some have not
        kinds = count_kinds(tuple(prefix.strip_all(shapes)), lengths)
    else:
        kinds = tuple((prefix.strip(key), axes, n) for key, axes, n in count_kinds(tuple(shapes), lengths))
    covered: dict[tuple[str, int], bool] = {}
    without = 0
    for name, axes, tensors in kinds:
        kind = (skeleton_of(name), axes)
        if kind not in covered:
            covered[kind] = bool(matcher.candidates(name, axes))
            if forms and not covered[kind] and may_be_derived(name):
                stripped = stripped or dict(zip(prefix.strip_all(shapes), shapes.values(), strict=True))
                covered[kind] = bool(matcher.derived(name, stripped))
        if axes and not covered[kind] and not matcher.exact.get(kind[0]):
            without += tensors
    return sum(covered.values()) / len(covered) if covered else 0.0, without
