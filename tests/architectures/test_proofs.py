"""Every shipped spec is proved on real networks: permuted at random, run, outputs unchanged."""

from __future__ import annotations

import pytest

from rebasin_cli.proofs.proof import prove
from rebasin_cli.proofs.subjects import SUBJECTS, Make
from rebasin_cli.spec import detect, find_spec, shipped_specs

CASES = [pytest.param(name, make, id=f"{name}-{at}") for name in SUBJECTS for at, make in enumerate(SUBJECTS[name])]


def test_every_shipped_spec_has_a_network_to_be_proved_on() -> None:
    assert set(shipped_specs()) == set(SUBJECTS)


@pytest.mark.parametrize(("name", "make"), CASES)
def test_spec_preserves_the_function_of_the_real_network(name: str, make: Make) -> None:
    subject = make()
    proof = prove(find_spec(name), subject, elements=3)
    assert proof.holds, proof.describe()
    shapes = {key: tuple(tensor.shape) for key, tensor in subject.state.items()}
    assert detect(shapes, config=subject.config).spec.name == name
