"""A proof is remembered of what was proved: signs that are added to a spec later were not."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebasin_cli.pipeline.remembered_proofs import RememberedProof, proof_of, remember
from tests.spec.building import spec_of


def test_a_proof_of_permutations_is_none_of_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    plain, signed = spec_of("tensors:\n  a: h _\n"), spec_of("signs:\n  - h\ntensors:\n  a: h _\n")
    remember(plain, RememberedProof.now("mine:make", 1e-9))
    assert proof_of(plain) is not None
    assert plain.sha256 == signed.sha256
    assert proof_of(signed) is None
    remember(signed, RememberedProof.now("mine:make", 1e-9))
    assert proof_of(signed) is not None
