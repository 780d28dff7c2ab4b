"""Which dims of a checkpoint linear maps may act on, and which tensors take up the gains of which norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rebasin_cli.spec.binding.claims import Claim
from rebasin_cli.spec.binding.equations import Plus
from rebasin_cli.spec.binding.layout import MapKind
from rebasin_cli.spec.language.permutation_spec import PermutationSpec, RotationRule


@dataclass(frozen=True, slots=True)
class Rotations:
    """What maps do in a checkpoint.

    Attributes:
        kinds: of every dim with maps.
        norms: gains, biases and readers of the norms on rotated streams: key on disk → key of the gains.
        notes: why a dim that the spec rotates is not rotated here.
    """

    kinds: Mapping[str, MapKind] = field(default_factory=dict)
    norms: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_rotations(
    spec: PermutationSpec,
    rules: Mapping[str, RotationRule],
    claims: Mapping[str, Claim],
    axes: Mapping[str, tuple[Plus, ...]],
    on_disk: Mapping[str, str],
    powered: frozenset[str],
) -> Rotations:
    """The dims of `rules` on which maps act here, and the norms on them.

    A stream has norms whose gains are taken up by what reads them; where nothing does (a head that is tied to the
    embedding, which has no tensor of its own) it cannot be rotated.

    Args:
        powered: dims of which `Powers` tells where they are written and where they are read.
    """
    gain_of = _gains(spec, claims)
    lengths = {key: len(found) for key, found in axes.items()}
    sides = {key: [{leaf.dim for leaf in axis.leaves()} for axis in found] for key, found in axes.items()}
    twice = {dim for found in sides.values() for dim in rules if sum(dim in dims for dims in found) > 1}
    barred = {leaf.dim for found in axes.values() for axis in found for leaf in axis.leaves() if leaf.still}
    read = {gain for key, gain in gain_of.items() if lengths[key] > 1}
    streams: dict[str, list[str]] = {}
    for gain in dict.fromkeys(gain_of.values()):
        for dim in sides[gain][0] if lengths[gain] == 1 else ():
            if dim is not None and dim in rules:
                streams.setdefault(dim, []).append(gain)
    kinds: dict[str, MapKind] = {}
    norms: dict[str, str] = {}
    notes = []
    for dim, rule in rules.items():
        unread = [on_disk[gain] for gain in streams.get(dim, ()) if gain not in read]
        if dim in twice:
            notes.append(f"{dim} is not rotated, as it stands on two axes of one tensor")
        elif unread:
            notes.append(f"{dim} is not rotated: no tensor of its own takes up {unread[0]} (a tied head has none)")
        elif dim in streams or rule.keeps_ones:  # norms may have no gains
            kinds[dim] = "keeps ones" if rule.keeps_ones else "orthogonal"
            norms |= {on_disk[key]: on_disk[gain] for key, gain in gain_of.items() if gain in streams.get(dim, ())}
        elif dim in powered - barred:
            kinds[dim] = rule.pairs or "invertible"
    return Rotations(kinds, norms, tuple(notes))


def _gains(spec: PermutationSpec, claims: Mapping[str, Claim]) -> dict[str, str]:
    """Key of each gain, bias and reader of a norm → key of the gains."""
    found: dict[str, str] = {}
    for norm in spec.norms:
        for key in claims:
            for template in (norm.gain, *norm.users):
                bindings = template.match(key)
                gain = norm.gain.key(bindings) if bindings is not None else None
                if gain is not None and gain in claims:
                    found[key] = gain
                    break
    return found
