"""What can be said of how a method works: a frozen class of options for each, with their defaults.

They are told from the command line down, so that they import no torch; the methods are in modules of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rebasin_cli.permutation.values import Permutation

Start = Literal["identity", "anchored"]
Order = Literal["random", "forward"]

RelaxedStart = Literal["barycentre", "identity"]
"""Where doubly stochastic matrices begin: every unit spread evenly over all places, or in its own."""
STARTS: tuple[RelaxedStart, ...] = ("barycentre", "identity")

Similarity = Literal["covariance", "correlation"]

MAX_ITERATIONS = 60
SINKHORN_RATE = 0.2
"""AdamW's learning rate: scores move by so much a step, and the logarithm of the number of units is far."""

STE_RATE = 1e-2
"""The paper's learning rate for its MNIST network."""


@dataclass(frozen=True, slots=True)
class WeightsOptions:
    """How to descend.

    Attributes:
        start: `anchored`, a first pass outwards from the sides that never move, each block solved with only what
            is already aligned; `identity`, as in Algorithm 1; or a permutation to improve.
        order: `forward` visits the blocks of a sweep in the spec's order, `random` as Algorithm 1 does.
        max_sweeps: the descent ends after this number of sweeps.
    """

    start: Start | Permutation = "anchored"
    order: Order = "forward"
    max_sweeps: int = 100


@dataclass(frozen=True, slots=True)
class FrankWolfeOptions:
    """How to go.

    Attributes:
        start: `barycentre`, every unit of B spread evenly over all places, or `identity`.
        max_iterations: of Frank-Wolfe; max_sweeps: of the descent that follows.
    """

    start: RelaxedStart = "barycentre"
    max_iterations: int = MAX_ITERATIONS
    max_sweeps: int = 100


@dataclass(frozen=True, slots=True)
class SinkhornOptions:
    """How to go.

    Attributes:
        learning_rate: AdamW's: scores move by so much a step, and the logarithm of the number of units is far.
        max_sweeps: of the descent that follows.
    """

    learning_rate: float = SINKHORN_RATE
    max_sweeps: int = 100


@dataclass(frozen=True, slots=True)
class SinkhornLossOptions:
    """How to go down a loss.

    Attributes:
        objective: where the loss is taken: at the `midpoint`, or at a `random` λ, another one in every step.
        learning_rate: as of `SinkhornOptions`.
        epochs, patience: as of `search_by_loss`.
        max_sweeps: of the descent before.
    """

    objective: Literal["midpoint", "random"]
    learning_rate: float = SINKHORN_RATE
    epochs: int = 20
    patience: int = 10
    max_sweeps: int = 100


@dataclass(frozen=True, slots=True)
class SteOptions:
    """Hyper-parameters; the paper's for its MNIST network, but for the number of epochs (100).

    Attributes:
        learning_rate, momentum: of SGD; where rotations are learned, of Adam (β₁), and the rate falls to 0.
        epochs, patience: as of `search_by_loss`.
        max_sweeps: of the descent before and of each projection.
    """

    learning_rate: float = STE_RATE
    momentum: float = 0.9
    epochs: int = 20
    patience: int = 10
    max_sweeps: int = 100


@dataclass(frozen=True, slots=True)
class ActivationOptions:
    """How units are compared.

    Attributes:
        similarity: `covariance` is Σ z_A z_Bᵀ (least squares); `correlation` is Pearson's, 0 where a unit is dead.
        mix: the share of activations beside weights, 0 to 1; below 1 `similarity` is `correlation`.
    """

    similarity: Similarity = "correlation"
    mix: float = 1.0
