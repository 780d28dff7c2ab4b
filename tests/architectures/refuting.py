"""Turning a shipped spec into one that claims too much, and proving that."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.proofs.proof import prove
from rebasin_cli.proofs.subjects import Subject
from rebasin_cli.spec import PermutationSpec, load_spec, shipped_specs


@dataclass(frozen=True, slots=True)
class Claim:
    """A wrong claim: what to exchange in the shipped spec, and the dims (`gate ff`) that a proof must name."""

    spec: str
    make: Callable[[], Subject]
    exchange: Mapping[str, str]
    dims: str


def permutations_of(name: str) -> str:
    """The text of a shipped spec without signs, scales and rotations: what claims are made about."""
    text = shipped_specs()[name].read_text(encoding="utf-8")
    text = re.sub(r"^(signs|scales|rotations|norms):.*\n(  .*\n)+", "", text, flags=re.MULTILINE)
    text = re.sub(r': "(\|[^"\n]*)"', r": \1", text)  # a pattern that begins with a bar is quoted
    text = re.sub(r"(?<=[ (])/(?=[a-z])", "", text)
    text = re.sub(r"(?<=[ (])\w+\.\{i\}:(?=\w)", "_:", text)  # what a rotary embedding turns
    return re.sub(r"(?<!\w)\|(\w+(?:\.\{\w+\})*)\|", r"\1", text)


def exchanged(name: str, exchange: Mapping[str, str], folder: Path) -> PermutationSpec:
    """The shipped spec with the exchanges made, every one of which must be there to be made."""
    text = permutations_of(name)
    for old, new in exchange.items():
        assert old in text, old
        text = text.replace(old, new)
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return load_spec(path)


def check_refuted(claim: Claim, folder: Path) -> None:
    """See that the claim is found to be wrong, by far, and that the proof names its dims."""
    proof = prove(exchanged(claim.spec, claim.exchange, folder), claim.make())
    assert not proof.holds
    assert proof.error > 100 * proof.tolerance
    assert set(claim.dims.split()) <= set(proof.breaking)
