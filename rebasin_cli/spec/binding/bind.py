"""A spec and a checkpoint's shapes, bound under the prefix that fits best."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from rebasin_cli.spec.binding.binder import Binder
from rebasin_cli.spec.binding.claims import Matcher, Shape
from rebasin_cli.spec.binding.ignore_patterns import keys_matching, require_matches
from rebasin_cli.spec.binding.layout import Layout
from rebasin_cli.spec.binding.mismatch import Mismatch, mismatch_error
from rebasin_cli.spec.binding.prefixes import MOST, Prefix, prefix_candidates
from rebasin_cli.spec.binding.request import Request
from rebasin_cli.spec.binding.transposed import transposed
from rebasin_cli.spec.language.permutation_spec import PermutationSpec


@lru_cache(maxsize=512)
def matcher_for(spec: PermutationSpec) -> Matcher:
    """The matcher of a spec, built once."""
    return Matcher(spec)


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
    result = _attempt(spec, shapes, request, loose)
    other = transposed(spec) if loose and isinstance(result, Mismatch) else None
    if other is None:
        return result
    again = _attempt(other, shapes, request, loose)
    if isinstance(again, Mismatch):
        return result
    note = f"linear layers are stored the other way round than `{spec.name}` says, and are read so"
    return replace(again, spec=spec, notes=(*again.notes, note))


def _attempt(spec: PermutationSpec, shapes: Mapping[str, Shape], request: Request, loose: bool) -> Layout | Mismatch:
    left = keys_matching(request.ignore, shapes) | (set(request.apart) & shapes.keys())
    kept = {key: shape for key, shape in shapes.items() if key not in left}
    matcher = matcher_for(spec)
    prefixes = prefix_candidates(spec, list(kept), MOST if loose else 1.0)
    best: Mismatch | None = None
    for prefix in _passing(matcher, prefixes, kept, loose):
        result = Binder(matcher, shapes, left, prefix, request, loose).run()
        if isinstance(result, Layout):
            return result
        if best is None or len(result.faults) < len(best.faults):
            best = result
    assert best is not None  # there is always the empty prefix
    return best


def _passing(
    matcher: Matcher, prefixes: Sequence[Prefix], shapes: Mapping[str, Shape], loose: bool
) -> Sequence[Prefix]:
    """The prefixes that pass the quick screen; if none does, the four that come nearest to it."""
    coverage = {
        p: matcher.coverage({p.strip(key): shape for key, shape in shapes.items()}, forms=loose) for p in prefixes
    }
    passing = [p for p in prefixes if coverage[p] == 1.0]
    return passing or sorted(prefixes, key=lambda p: -coverage[p])[:4]
