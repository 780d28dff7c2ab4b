"""The options of the functions: the command's names, typed. Their defaults stand where the command's do.

A typed dict tells type checkers and editors what a function takes, without a default; what is left out is left to the
options and requests of `pipeline`. `parameters_of` reads the defaults there, for `help()`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeAlias,
    TypedDict,
    get_args,
    get_origin,
    get_type_hints,
)

from rebasin_cli.api.misfits import misfit, nearest, plain, shown
from rebasin_cli.errors import UsageError, did_you_mean
from rebasin_cli.evaluation.options import Kind, Polish, Split
from rebasin_cli.matching.options import Order, Similarity, Start
from rebasin_cli.merging.options import LINE, Algorithm, Combine

if TYPE_CHECKING:
    from torch import nn

    from rebasin_cli.api.alignment import Alignment
    from rebasin_cli.api.permutations import UnitPermutation
    from rebasin_cli.api.specs import Spec

    Network: TypeAlias = str | nn.Module
    SpecName: TypeAlias = str | os.PathLike[str] | Spec
    Permutations: TypeAlias = str | os.PathLike[str] | UnitPermutation | Alignment
else:  # what they are is seen where they are used, without torch
    Network = SpecName = Permutations = Any

Method = Literal["weights", "frank-wolfe", "sinkhorn", "activations", "ste"]


@dataclass(frozen=True, slots=True)
class Between:
    """The range of a number."""

    least: float
    most: float = 1e9

    def __str__(self) -> str:
        return f"from {self.least:.16g} to {self.most:.16g}"


Count = Annotated[int, Between(1)]
Seed = Annotated[int, Between(0, 2**53 - 1)]
Seconds = Annotated[float, Between(0.001)]
LearningRate = Annotated[float, Between(0, 1000)]
Share = Annotated[float, Between(0, 1)]


class Talking(TypedDict, total=False):
    """What every function takes.

    progress: show bars on stderr.
    """

    progress: bool


class SpecKeywords(TypedDict, total=False):
    """Which spec describes the networks (`--arch`), and what of it moves."""

    spec: SpecName | None
    set: Mapping[str, int]
    freeze: Sequence[str]
    ignore: Sequence[str]


class MatchedSpecKeywords(SpecKeywords, total=False):
    """What may be done to units besides, where they are matched (`--symmetry`)."""

    symmetry: Literal["permutations", "signs", "scales", "rotations", "all"]


class MatchKeywords(TypedDict, total=False):
    """How units are matched; see `rebasin align --help`."""

    method: Method
    objective: Literal["distance", "midpoint", "random"]
    start: Start
    order: Order
    seed: Seed
    max_sweeps: Count
    restarts: Count
    quality: Literal["fast", "default", "high"]
    time_budget: float | str
    memory: int | str
    threads: Annotated[int, Between(1, 1024)]
    cluster: str | None
    on_interrupt: Literal["abort", "save"]
    similarity: Similarity
    mix: Share
    tap: Mapping[str, str]
    epochs: Count
    learning_rate: LearningRate
    momentum: Share
    device: Literal["auto", "cpu", "cuda"]


class NetworkKeywords(TypedDict, total=False):
    """The network: a module or `package.module:function`, and inputs that it can be run on."""

    network: Network | None
    network_option: Mapping[str, str]
    inputs: Any


class DataKeywords(NetworkKeywords, total=False):
    """Examples, and how they are prepared: a path, `package.module:function`, (inputs, targets) or batches of them."""

    data: Any
    split: Split
    limit: Count
    fit_batch_size: Count
    sequence_length: Annotated[int, Between(2, 10**6)]
    image_size: Annotated[int, Between(1, 10_000)]
    normalise: str


class JudgeKeywords(DataKeywords, total=False):
    """How networks are judged, and what is done to those between."""

    batch_size: Count
    metric: Sequence[str]
    eval_command: str
    eval_server: str
    eval_timeout: Seconds
    repair: Kind | Sequence[Kind]
    polish: Polish | None
    polish_steps: Count
    fit_data: Any
    fit_limit: Count


class AlignKeywords(Talking, MatchedSpecKeywords, MatchKeywords, DataKeywords, total=False):
    """What `align` takes."""

    loss: str


class AlignManyKeywords(AlignKeywords, total=False):
    """What `align_many` takes."""

    together: bool
    resume: str | os.PathLike[str] | None
    summary: str | os.PathLike[str] | None
    force: bool


class InterpolateKeywords(Talking, MatchedSpecKeywords, MatchKeywords, JudgeKeywords, total=False):
    """What `interpolate` takes."""

    steps: Annotated[int, Between(2, 100_000)]
    ensemble: bool
    calibrate: bool
    combine: Combine
    align: bool
    permutation: Permutations | None
    resume: str | os.PathLike[str] | None


class MergeKeywords(Talking, MatchedSpecKeywords, MatchKeywords, JudgeKeywords, total=False):
    """What `merge` takes."""

    algorithm: Algorithm
    weights: Sequence[float] | None
    steps: Annotated[int, Between(3, 100_000)]


class ApplyKeywords(Talking, SpecKeywords, NetworkKeywords, total=False):
    """What `apply` takes."""

    inverse: bool


class RepairKeywords(Talking, SpecKeywords, NetworkKeywords, total=False):
    """What `repair` takes."""

    split: Split
    limit: Count
    sequence_length: Annotated[int, Between(2, 10**6)]
    image_size: Annotated[int, Between(1, 10_000)]
    normalise: str
    loss: str
    polish: Polish | None
    polish_steps: Count
    device: Literal["auto", "cpu", "cuda"]


class InspectKeywords(Talking, SpecKeywords, NetworkKeywords, total=False):
    """What `inspect` takes."""


class DeriveKeywords(Talking, total=False):
    """What `derive` takes."""

    network_option: Mapping[str, str]
    checkpoint: Any
    set: Mapping[str, int]
    seed: Seed
    max_seconds: Seconds


class ProveKeywords(Talking, total=False):
    """What `prove` takes."""

    inputs: Any
    set: Mapping[str, int]
    config: str | os.PathLike[str] | None
    seed: Seed


def check_keywords(function: str, keywords: type, given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse keywords that there are none of, and values of another type or out of range.

    Args:
        own: the parameters that the function has besides.

    Raises:
        TypeError: there is no such keyword. UsageError: the value cannot be used.
    """
    hints = get_type_hints(keywords, include_extras=True)
    for name, value in given.items():
        if name not in hints:
            hint = did_you_mean(name, [*hints, *own])
            raise TypeError(f"{function}() has no keyword `{name}`" + (f"; {hint}" if hint else ""))
        if value is not None and (wanted := misfit(value, hints[name])):
            raise UsageError(f"{name}={shown(value)}: expected {wanted}", remedy=nearest(value, hints[name]))


@cache
def choices() -> Mapping[str, tuple[str, ...]]:
    """Every keyword that there is, with the texts it may be, if those are given."""
    found: dict[str, tuple[str, ...]] = {}
    for keywords in (
        AlignKeywords,
        InterpolateKeywords,
        MergeKeywords,
        ApplyKeywords,
        RepairKeywords,
        DeriveKeywords,
        ProveKeywords,
    ):
        for name, hint in get_type_hints(keywords, include_extras=True).items():
            words = get_args(hint) if get_origin(hint) is Literal else ()
            found[name] = (*found.get(name, ()), *words)
    return found


def parameters_of(keywords: type) -> list[inspect.Parameter]:
    """The keywords as parameters, with the defaults that the options and requests have; None where it depends."""
    known = _defaults(keywords)
    kind = inspect.Parameter.KEYWORD_ONLY
    hints = get_type_hints(keywords, include_extras=True)
    return [
        inspect.Parameter(name, kind, default=known.get(name), annotation=plain(hint)) for name, hint in hints.items()
    ]


def _defaults(keywords: type) -> dict[str, object]:
    """Name → default, from where the defaults stand; those that methods have differently are left out."""
    from rebasin_cli.pipeline.data_request import DataRequest
    from rebasin_cli.pipeline.interpolate_request import InterpolateRequest
    from rebasin_cli.pipeline.layouts import SpecChoice
    from rebasin_cli.pipeline.merge import MergeRequest
    from rebasin_cli.pipeline.method_choice import METHODS, MatchChoice

    requests = {InterpolateKeywords: (InterpolateRequest, DataRequest), MergeKeywords: (MergeRequest, DataRequest)}
    own = requests.get(keywords, ())
    found: dict[str, set[object]] = {"progress": {False}, "combine": {LINE.how}}
    for source in (SpecChoice, MatchChoice, *own, *(method.options for method in METHODS)):
        for field in fields(source):
            if field.default is not MISSING and isinstance(field.default, str | int | float | None):
                found.setdefault(field.name, set()).add(field.default)
    return {name: next(iter(values)) for name, values in found.items() if len(values) == 1}
