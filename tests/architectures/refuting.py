"""Turning a shipped spec into one that claims too much, and proving that."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rebasin_cli.proofs.proof import Proof, prove
from rebasin_cli.proofs.subjects import Subject
from rebasin_cli.spec import load_spec, shipped_specs


@dataclass(frozen=True, slots=True)
class Claim:
    """A wrong claim: what to exchange in the shipped spec, and the dim that a proof must name."""

    spec: str
    make: Callable[[], Subject]
    exchange: Mapping[str, str]
    dim: str


def permutations_of(name: str) -> str:
    """The text of a shipped spec without signs and scales: what claims are made about."""
    text = shipped_specs()[name].read_text(encoding="utf-8")
    text = re.sub(r"^(signs|scales):.*\n(  - .*\n)+", "", text, flags=re.MULTILINE)
    text = re.sub(r': "(\|[^"\n]*)"', r": \1", text)  # a pattern that begins with a bar is quoted
    text = re.sub(r"(?<=[ (])/(?=[a-z])", "", text)
    return re.sub(r"(?<!\w)\|(\w+(?:\.\{\w+\})*)\|", r"\1", text)


def refuted(claim: Claim, folder: Path) -> Proof:
    """The proof of the spec with the exchange made; every text to exchange must be there."""
    text = permutations_of(claim.spec)
    for old, new in claim.exchange.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / f"{claim.spec}.yaml"
    path.write_text(text, encoding="utf-8")
    return prove(load_spec(path), claim.make())
