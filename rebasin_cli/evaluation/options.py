"""What can be said of examples and of a loss: names and numbers, judged before anything is read."""

from __future__ import annotations

import math
from typing import Literal

from rebasin_cli.errors import UsageError, did_you_mean
from rebasin_cli.evaluation.user_code import is_named

Split = Literal["train", "test"]
Kind = Literal["bn", "repair"]
"""How statistics of a mixed network are repaired."""

Polish = Literal["least-squares", "distill"]
"""How the weights of a mixed network are fitted to its members; the second goes on from the first."""

Moments = tuple[tuple[float, ...], tuple[float, ...]]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet's channels, which nearly every network of torchvision and timm was trained with."""

CROSS_ENTROPY, MSE, MAE = "cross-entropy", "mse", "mae"
LOSS_NAMES = (CROSS_ENTROPY, MSE, MAE)
"""Every `--loss` that has a name of its own."""

LOSS_HELP = "a function of (outputs, targets) of a batch that returns its mean loss: one number, or a tensor of one"
_OBJECTIVES = ("distance", "midpoint", "random")


def check_name(name: str | None) -> None:
    """Refuse a name that no loss has, before anything is read.

    Raises:
        UsageError: naming those that there are.
    """
    if name is not None and name not in LOSS_NAMES and not is_named(name):
        raise unknown_loss(name)


def unknown_loss(name: str) -> UsageError:
    """The refusal of a name that no loss has."""
    if name in _OBJECTIVES:
        return UsageError(
            f"--loss {name}: what Sinkhorn goes down is called its objective",
            remedy=f"--method sinkhorn --objective {name}; --loss says how answers are judged",
        )
    hint = did_you_mean(name, LOSS_NAMES)
    return UsageError(
        f"--loss {name}: there is none of that name" + (f"; {hint}" if hint else ""),
        remedy=f"use {', '.join(LOSS_NAMES)}, or package.module:function: {LOSS_HELP}",
    )


def parse_moments(text: str) -> Moments:
    """`imagenet`, `0.5/0.5` or `0.4,0.5,0.6/0.2,0.2,0.2`.

    Raises:
        UsageError: anything else.
    """
    if text == "imagenet":
        return IMAGENET
    try:
        mean, deviation = (tuple(float(part) for part in side.split(",")) for side in text.split("/"))
    except ValueError:
        mean, deviation = (), ()
    fitting = len(mean) == len(deviation) and len(mean) in (1, 3) and min(deviation, default=0) > 0
    if not fitting or not all(map(math.isfinite, (*mean, *deviation))):
        raise UsageError(
            f"--normalise {text[:60]}: expected MEAN/DEVIATION of one or three channels, deviations above 0",
            remedy="--normalise imagenet, --normalise 0.5/0.5 or --normalise 0.4,0.5,0.6/0.2,0.2,0.2",
        )
    return mean, deviation
