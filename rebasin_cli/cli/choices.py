"""What options choose from."""

from __future__ import annotations

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
