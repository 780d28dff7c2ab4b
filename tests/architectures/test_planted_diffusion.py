"""A permutation planted in a network of a diffusion model, with noise, is found again.

No family needs more than one seed, although a UNet's streams are cut into cells that move in up to three levels.
"""

from __future__ import annotations

import pytest

from rebasin_cli.proofs.subjects import (
    Make,
    diffusion,
    diffusion_transformers,
    original_transformers,
    stable_diffusion,
)
from tests.architectures.planting import shortfall

FAMILIES = {
    **diffusion.SUBJECTS,
    **stable_diffusion.SUBJECTS,
    **diffusion_transformers.SUBJECTS,
    **original_transformers.SUBJECTS,
}
"""Whole checkpoints are left out: their parts are all here, and share no dim."""

CASES = [
    pytest.param(name, make, id=f"{name}-{at}")
    for name, makes in FAMILIES.items()
    for at, make in enumerate(makes)
    if name not in ("sd15-unet-original", "sdxl-unet-original", "sd-vae-original")  # the same networks, other keys
]


@pytest.mark.parametrize(("name", "make"), CASES)
def test_a_planted_permutation_is_found(name: str, make: Make) -> None:
    assert shortfall(name, make())[0] <= 1e-9
