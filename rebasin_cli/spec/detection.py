"""Detect the architecture of a checkpoint from its headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rebasin_cli.errors import ContentError
from rebasin_cli.process import collection_paused
from rebasin_cli.spec.binding.bind import MANY, attempt, matcher_for
from rebasin_cli.spec.binding.binder import Request
from rebasin_cli.spec.binding.claims import Shape, one_of_each_kind
from rebasin_cli.spec.binding.layout import Layout
from rebasin_cli.spec.binding.left_over import Mismatch
from rebasin_cli.spec.binding.prefixes import (
    MOST,
    Prefix,
    keys_matching,
    options_for,
    prefix_candidates,
    require_matches,
)
from rebasin_cli.spec.language.permutation_spec import PermutationSpec
from rebasin_cli.spec.registry import may_cover, shipped_spec, shipped_specs

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
        raise _nothing_fits([result])
    if len(chosen) > 1:
        raise _tie(chosen)
    mismatches = [r for r in results if isinstance(r, Mismatch)]
    # Not if another spec covers more or is named: a tensor without a line here may have one there.
    odd = [m for m in mismatches if m.odd and screens[m.spec.name] == max(screens.values())]
    if odd and not any(model_type and model_type in m.spec.model_types for m in mismatches if m not in odd):
        raise _fits_but_for(min(odd, key=lambda mismatch: len(mismatch.odd)), shapes)
    different = mismatches
    if len(shapes) <= MANY:  # what does not fit as it stands tells more than what does not fit in any form
        strict = [known.get(spec.name) or attempt(spec, shapes, request) for spec in near[:3]]
        different = [r for r in strict if isinstance(r, Mismatch)]
    # A spec with as many differences as there are tensors has nothing in common with them but a few names.
    raise _nothing_fits([m for m in different if len(m.faults) < len(shapes) or model_type in m.spec.model_types])


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


def _fits_but_for(mismatch: Mismatch, shapes: Mapping[str, Shape]) -> ContentError:
    odd = [key for key in mismatch.odd if shapes[key]]
    shown = ", ".join(f"{key} {list(shapes[key])}" for key in odd[:4])
    more = f" and {len(odd) - 4} more" if len(odd) > 4 else ""
    # A matrix under the network's prefix is most likely a layer of it, which moved units pass through.
    inside = [key for key in odd if len(shapes[key]) > 1 and key.startswith(mismatch.prefix)]
    options = options_for(mismatch.patterns)
    remedy = f"if they are no part of the network (of a loss, a metric, a copy of it): {options}"
    if inside:
        remedy = (
            f"if they are layers of the network, it needs a spec of its own; only if it never reads them: {options}"
        )
    return ContentError(
        f"`{mismatch.spec.name}` fits but for {len(odd)} tensor{'s' * (len(odd) > 1)} of which it says nothing: "
        f"{shown}{more}",
        where=f"the other keys begin with {mismatch.prefix}" if mismatch.prefix else "",
        remedy=remedy,
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


def _nothing_fits(mismatches: Sequence[Mismatch]) -> ContentError:
    remedy = (
        "name the network's code with --network MODULE:FACTORY, and a spec is derived from it (of a folder with a "
        "config.json by `rebasin arch derive FOLDER -o FILE.yaml`); or write one: architectures/README.md"
    )
    if not mismatches:
        return ContentError(
            "no architecture fits this checkpoint, and none is near",
            remedy=remedy,
        )
    rows = []
    for mismatch in sorted(mismatches, key=lambda m: len(m.faults)):
        rows.append(f"  - {mismatch.spec.name}: {mismatch.counted}, first of them")
        rows += [f"      {p.what}{f' ({mismatch.spec.at(p.line)})' if p.line else ''}" for p in mismatch.faults[:3]]
    return ContentError(
        "no architecture fits this checkpoint; the nearest are\n" + "\n".join(rows),
        remedy=f"name one with --arch, leave odd tensors alone with --ignore PATTERN, or {remedy}",
    )
