"""Which architecture a checkpoint is, told from its headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rebasin_cli.errors import ContentError
from rebasin_cli.spec.binding import Mismatch, Request, attempt, left_in, matcher_for
from rebasin_cli.spec.claims import Shape
from rebasin_cli.spec.language import PermutationSpec
from rebasin_cli.spec.layout import Layout
from rebasin_cli.spec.prefixes import prefix_candidates
from rebasin_cli.spec.registry import shipped_spec, shipped_specs
from rebasin_cli.spec.template import skeleton_of


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
    before one of which it is a part.

    Args:
        specs: those to choose from; the shipped ones if not given.

    Raises:
        ContentError: none fits (the three nearest are shown with their first differences), or several do.
    """
    if not shapes:
        raise ContentError("the checkpoint has no tensors", remedy="check the file with `rebasin inspect`")
    specs = [shipped_spec(name) for name in shipped_specs()] if specs is None else specs
    model_type = str((config or {}).get("model_type", ""))
    kinds = _one_of_a_kind(left_in(shapes, ignore))
    screens = {spec.name: _screen(spec, kinds) for spec in specs}
    screened = [spec for spec in specs if screens[spec.name] == 1.0]
    request = Request(config, None, (), ignore)
    results = [attempt(spec, shapes, request) for spec in screened]
    fitting = [r for r in results if isinstance(r, Layout)]
    named = [r for r in fitting if model_type and model_type in r.spec.model_types]
    chosen = [r for r in named or fitting if not any(other.spec.name in r.spec.parts for other in fitting)]
    if len(chosen) == 1:
        if not (overrides or freeze):
            return chosen[0]
        result = attempt(chosen[0].spec, shapes, Request(config, overrides, freeze, ignore))
        if isinstance(result, Layout):
            return result
        raise _nothing_fits([result])
    if len(chosen) > 1:
        raise _tie(chosen)
    near = sorted(specs, key=lambda spec: (model_type not in spec.model_types, -screens[spec.name]))[:3]
    mismatches = [r for spec in near if isinstance(r := attempt(spec, shapes, request), Mismatch)]
    raise _nothing_fits(mismatches)


def _one_of_a_kind(shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """One key of every kind (numbers and lengths aside): a mixture of experts has thousands of a few kinds."""
    kinds: dict[tuple[str, int], str] = {}
    for key, shape in shapes.items():
        kinds.setdefault((skeleton_of(key), len(shape)), key)
    return {key: shapes[key] for key in kinds.values()}


def _screen(spec: PermutationSpec, shapes: Mapping[str, Shape]) -> float:
    """The share of kinds of keys that the spec has a line for, under its best prefix."""
    matcher = matcher_for(spec)
    best = 0.0
    for prefix in prefix_candidates(spec, list(shapes)):
        best = max(best, matcher.coverage({prefix.strip(key): shape for key, shape in shapes.items()}))
        if best == 1.0:
            break
    return best


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
    rows = []
    for mismatch in sorted(mismatches, key=lambda m: len(m.problems)):
        rows.append(f"  - {mismatch.spec.name}: {mismatch.counted}, first of them")
        rows += [f"      {p.what}{f' ({mismatch.spec.at(p.line)})' if p.line else ''}" for p in mismatch.problems[:3]]
    return ContentError(
        "no architecture fits this checkpoint; the nearest are\n" + "\n".join(rows),
        remedy="name one with --arch, leave odd tensors alone with --ignore PATTERN, or write a spec: "
        "architectures/README.md shows how in ten minutes",
    )
