"""The temperature of a network: the one number by which its logits are divided so that they fit some examples best.

See Guo et al. (arXiv:1706.04599). The mean of two networks is often right and unsure of itself, so that most of its
barrier goes where its temperature is fitted (arXiv:2510.08023).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from rebasin_cli.evaluation.answers import by_position
from rebasin_cli.evaluation.data import IGNORED
from rebasin_cli.merging.polishing.solving import best_scale

LARGEST = 1 << 28
"""Logits that are kept to fit a temperature on, 1 GiB of them."""

LOW, HIGH = 1e-4, 1e4  # of the scale; at an end of it there is no best one


def fitted_scale(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The scale of logits at which their cross-entropy is least; the temperature is one over it.

    Logits that are not finite, or all alike, have no best scale: 1.

    Args:
        batches: logits and labels, as `by_position` takes them.
    """
    pairs = [found for answers, targets in batches if (found := by_position(answers, targets)) is not None]
    logits, labels = torch.cat([one for one, _ in pairs]).double(), torch.cat([other for _, other in pairs])
    logits, labels = logits[labels != IGNORED], labels[labels != IGNORED]
    logits = logits - logits.amax(1, keepdim=True)
    if not len(logits) or not bool(logits.isfinite().all()) or not bool((logits != 0).any()):
        return 1.0
    right = logits.gather(1, labels[:, None])[:, 0].sum()
    return best_scale(logits, right, LOW, HIGH)
