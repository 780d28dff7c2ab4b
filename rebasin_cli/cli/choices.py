"""What options choose from, and what each choice means."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Device(StrEnum):
    """Where similarities and losses are computed."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Method(StrEnum):
    """How units are matched."""

    WEIGHTS = "weights"
    FRANK_WOLFE = "frank-wolfe"
    SINKHORN = "sinkhorn"
    ACTIVATIONS = "activations"
    STE = "ste"


class MergeMethod(StrEnum):
    """How units of several models are matched; what goes by the loss between two is not among them."""

    WEIGHTS = "weights"
    FRANK_WOLFE = "frank-wolfe"
    SINKHORN = "sinkhorn"
    ACTIVATIONS = "activations"


class Symmetry(StrEnum):
    """What may be done to units beside permuting them."""

    PERMUTATIONS = "permutations"
    SIGNS = "signs"
    SCALES = "scales"
    ROTATIONS = "rotations"
    ALL = "all"


class ObjectiveName(StrEnum):
    """What Sinkhorn re-basin goes down."""

    DISTANCE = "distance"
    MIDPOINT = "midpoint"
    RANDOM = "random"


class Likeness(StrEnum):
    """What activations have in common."""

    CORRELATION = "correlation"
    COVARIANCE = "covariance"


class Start(StrEnum):
    """Where matching begins."""

    ANCHORED = "anchored"
    IDENTITY = "identity"


class Order(StrEnum):
    """The order of the steps of a sweep."""

    FORWARD = "forward"
    RANDOM = "random"


class Quality(StrEnum):
    """How much time to spend on a better optimum."""

    FAST = "fast"
    DEFAULT = "default"
    HIGH = "high"


class OnInterrupt(StrEnum):
    """What Ctrl-C does while matching."""

    ABORT = "abort"
    SAVE = "save"


class SplitName(StrEnum):
    """Which half of the data."""

    TRAIN = "train"
    TEST = "test"


class Polish(StrEnum):
    """How the weights of a merge are fitted to its models."""

    LEAST_SQUARES = "least-squares"
    DISTILL = "distill"


class Repair(StrEnum):
    """What is done to the statistics of merged networks."""

    NONE = "none"
    BN = "bn"
    REPAIR = "repair"


class Form(StrEnum):
    """How a result is printed."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


class Colours(StrEnum):
    """Whether text is coloured."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Algorithm(StrEnum):
    """How N models are brought together."""

    CYCLE_CONSISTENT = "cycle-consistent"
    FRANK_WOLFE = "frank-wolfe"
    MERGE_MANY = "merge-many"
    TO_FIRST = "to-first"
    HIERARCHICAL = "hierarchical"


class Combine(StrEnum):
    """What lies between two tensors."""

    LERP = "lerp"
    SLERP = "slerp"


_METHODS = {
    "weights": "descent on the weights",
    "frank-wolfe": "all dims at once, on the weights",
    "sinkhorn": "by gradients",
    "activations": "by what units answer to examples",
    "ste": "straight-through, by the loss at the midpoint",
}

MEANINGS: Mapping[type[StrEnum], Mapping[str, str]] = {
    Device: {"auto": "a GPU where the work is worth it"},
    Method: _METHODS,
    MergeMethod: _METHODS,
    Symmetry: {
        "permutations": "they change places", "signs": "their signs are turned, too, where the spec allows it",
        "scales": "they are scaled, too", "rotations": "they are mapped together, too", "all": "all of these",
    },
    ObjectiveName: {
        "distance": "of the weights", "midpoint": "the loss halfway", "random": "the loss at a random λ",
    },
    Likeness: {"correlation": "whatever their size", "covariance": "large ones count more"},
    Start: {"anchored": "outwards from what never moves", "identity": "as in the paper"},
    Order: {"forward": "as the spec has them", "random": "as in the paper"},
    Quality: {
        "fast": "one descent", "default": "Frank-Wolfe beside it where that is cheap",
        "high": "several starts, the best kept",
    },
    OnInterrupt: {"abort": "nothing is written", "save": "the best so far is"},
    Polish: {"least-squares": "layer by layer", "distill": "and then by gradients"},
    Repair: {"bn": "BatchNorm statistics are recomputed", "repair": "all channels are rescaled"},
    Form: {
        "auto": "text, and json where the command feeds a pipe", "text": "for people", "json": "the run document",
    },
    Colours: {"auto": "on a terminal, unless NO_COLOR or FORCE_COLOR say otherwise"},
    Algorithm: {
        "cycle-consistent": "all pairs at once, by descent", "frank-wolfe": "the same by Frank-Wolfe",
        "merge-many": "each to the mean of the others", "to-first": "each onto the first",
        "hierarchical": "pairs, then pairs of pairs",
    },
    Combine: {"lerp": "along the straight line", "slerp": "along each tensor's arc"},
}  # fmt: skip
"""What each word means, for `--help`; those that say it themselves have none."""
