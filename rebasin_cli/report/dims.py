"""The table of dims: one by one, or those of one template together (`h.{i} × 12`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rebasin_cli.report.document import ArchitectureRecord, DimRecord
from rebasin_cli.report.figures import percent_text
from rebasin_cli.report.measured import Grid

FEW_DIMS = 6
"""Up to this many dims are shown one by one; more are folded."""

_ROWS = 8  # of many kinds, those that gained most
_PLACES = 4  # tensors named for one dim
_VARIABLES = "ijklmn"


def dims_grid(architecture: ArchitectureRecord, *, every_dim: bool, rows: int = _ROWS) -> Grid:
    """Dims with size, fraction moved, gain; many are folded by template, and of many kinds `rows` are shown."""
    dims = architecture.dims
    matched = any(dim.moved is not None for dim in dims.values())
    one_by_one = every_dim or len(dims) <= FEW_DIMS
    groups = {name: [name] for name in dims} if one_by_one else folded(dims, bound=not matched)
    shown, rest = list(groups), ""
    if not one_by_one and matched and len(groups) > rows:
        shown = sorted(groups, key=lambda group: -sum(dims[d].gain or 0.0 for d in groups[group]))[:rows]
        rest = f", the largest gains of {len(groups)} kinds (-v: all)"
    kept = set(shown)
    lines = tuple(_row(name, [dims[d] for d in groups[name]], matched) for name in groups if name in kept)
    figures = ("moved", "gain", "distance left") if matched else ()
    return Grid(f"Dims{rest}", ("dim", "units", *figures, "note"), lines, words=(0, 2 + len(figures)))


def folded(names: Mapping[str, DimRecord], *, bound: bool = False) -> dict[str, list[str]]:
    """Dims of one template, which stay for one reason or may move, under `h.{i} × 12`; one alone under its name.

    Args:
        bound: name the first and the last one instead: `h.0 … h.11`.
    """
    groups: dict[tuple[str, str | None], list[str]] = {}
    for name, dim in names.items():
        groups.setdefault((template_of(name), dim.fixed), []).append(name)

    def label(template: str, members: Sequence[str]) -> str:
        if len(members) == 1:
            return members[0]
        return f"{members[0]} … {members[-1]} ({len(members)})" if bound else f"{template} × {len(members)}"

    return {label(template, members): members for (template, _), members in groups.items()}


def template_of(name: str) -> str:
    """`in.1.0` → `in.{i}.{j}`."""
    variables = iter(_VARIABLES)
    return ".".join(
        f"{{{next(variables, 'n')}}}" if at and part.isdecimal() else part for at, part in enumerate(name.split("."))
    )


def _row(name: str, members: Sequence[DimRecord], matched: bool) -> tuple[str, ...]:
    owners = sorted({template_of(dim.owner) if len(members) > 1 else dim.owner for dim in members if dim.owner})
    reasons = sorted({dim.fixed for dim in members if dim.fixed})
    notes = [f"for each {owner}" for owner in owners]
    notes += [f"fixed: {reason}" if reason != "fixed" else reason for reason in reasons]
    notes += signs_note(members)
    gains = [dim.gain for dim in members if dim.gain is not None]
    if len(gains) > 1:
        ends = dict.fromkeys(f"{gain:+.3g}" for gain in (min(gains), max(gains)))
        notes.append(f"{' to '.join(ends)} each")
    shown = template_of if len(members) > 1 else str
    places = list(dict.fromkeys(shown(place) for dim in members for place in dim.tensors))
    if places:
        more = f" and {len(places) - _PLACES} more" if len(places) > _PLACES else ""
        notes.append("in " + ", ".join(places[:_PLACES]) + more)
    return (name, _range([dim.size for dim in members]), *_figures(members, gains, matched), "; ".join(notes))


def signs_note(members: Sequence[DimRecord]) -> Iterator[str]:
    """Whether dims have signs, scales or rotations, and after a match how many signs are turned."""
    turned = [(dim.turned * dim.size, dim.size) for dim in members if dim.turned is not None]
    if turned:
        yield f"signs, {percent_text(sum(t for t, _ in turned) / max(1, sum(size for _, size in turned)))} turned"
    elif any("signs" in dim.symmetry for dim in members):
        yield "signs"
    for kind in ("scales", "rotations"):
        if any(kind in dim.symmetry for dim in members):
            yield kind


def _range(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return f"{low or '–'}" if low == high else f"{low}–{high}"


def _figures(members: Sequence[DimRecord], gains: Sequence[float], matched: bool) -> tuple[str, ...]:
    """Moved of all units together, gain of all dims together, and the largest distance that is left of one."""
    if not matched:
        return ()
    moved = [(dim.moved * dim.size, dim.size) for dim in members if dim.moved is not None and dim.fixed is None]
    worst = max((dim.relative for dim in members if dim.relative is not None), default=None)
    return (
        percent_text(sum(m for m, _ in moved) / max(1, sum(size for _, size in moved)) if moved else None),
        f"{sum(gains):+.4g}" if gains else "–",
        percent_text(worst),
    )
