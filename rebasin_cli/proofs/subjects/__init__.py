"""The real networks on which every shipped spec is proved, by spec name; each is built only when it is asked for.

One file a family; a file's `SUBJECTS` maps spec names to functions that make a `Subject`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects import (
    convnets,
    decoders,
    diffusion,
    diffusion_transformers,
    encoders,
    original_transformers,
    recurrent,
    stable_diffusion,
    vision_transformers,
    whole_checkpoints,
)

Make = Callable[[], Subject]

SUBJECTS: Mapping[str, tuple[Make, ...]] = {
    **convnets.SUBJECTS,
    **vision_transformers.SUBJECTS,
    **decoders.SUBJECTS,
    **encoders.SUBJECTS,
    **diffusion.SUBJECTS,
    **diffusion_transformers.SUBJECTS,
    **stable_diffusion.SUBJECTS,
    **whole_checkpoints.SUBJECTS,
    **original_transformers.SUBJECTS,
    **recurrent.SUBJECTS,
}

__all__ = ["SUBJECTS", "Make", "Subject"]
