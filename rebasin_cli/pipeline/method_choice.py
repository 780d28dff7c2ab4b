"""Which matching method runs, and with what: one value from the command line down to the solver.

Here is what can be said and refused of it; `methods` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from rebasin_cli.errors import UsageError, did_you_mean
from rebasin_cli.matching.options import (
    ActivationOptions,
    Order,
    SinkhornLossOptions,
    SinkhornOptions,
    Start,
    SteOptions,
)
from rebasin_cli.matching.resources import GPU_WORK, resolve_device, sweep_work
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.layouts import Pair
from rebasin_cli.process import load_torch
from rebasin_cli.spec import Layout

if TYPE_CHECKING:  # examples and networks, which not every command has
    from rebasin_cli.pipeline.cluster import Workers
    from rebasin_cli.pipeline.data_request import DataRequest
    from rebasin_cli.pipeline.match_data import MatchData

DESCENTS: Mapping[str, int] = {"fast": 1, "default": 1, "high": 5}
"""Descents by `--quality`."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a method that looks at weights alone searches.

    Attributes:
        start, order: of the first descent.
        restarts: how many descents; None leaves it to `quality`.
    """

    start: Start = "anchored"
    order: Order = "forward"
    restarts: int | None = None
    quality: str = "default"

    @property
    def descents(self) -> int:
        """How many descents."""
        return self.restarts or DESCENTS[self.quality]

    @property
    def leaves_it_to_quality(self) -> bool:
        """Whether nothing is said of where to start and how often."""
        return (self.restarts, self.start, self.order) == (None, "anchored", "forward")


@dataclass(frozen=True, slots=True)
class SinkhornSearchOptions(SearchOptions):
    """The same with Sinkhorn re-basin by the distance."""

    objective: Literal["distance"] = "distance"
    learning_rate: float = SinkhornOptions().learning_rate


@dataclass(frozen=True, slots=True)
class MatchChoice:
    """How to match.

    Attributes:
        options: of the method; see `METHODS`.
        max_sweeps: sweeps of a descent, and rounds of a merge, at most.
        time_budget: seconds after which the best so far is taken.
        memory: bytes that matching may keep between steps; None leaves it to the method.
        threads: how many work at once; None for as many as torch would take.
        cluster: whose workers do what is independent, see `cluster`; None for threads of this process.
        fitting: what a method that `looks_at_data` is shown.
        workers: those of the cluster, while a run is connected.
    """

    method: str = "weights"
    options: Any = SearchOptions()
    seed: int = 0
    max_sweeps: int = 100
    device: str = "auto"
    time_budget: float | None = None
    on_interrupt: str = "abort"
    memory: int | None = None
    threads: int | None = None
    cluster: str | None = None
    fitting: MatchData | None = None
    workers: Workers | None = None

    @property
    def looks_at_data(self) -> bool:
        """Whether the method needs examples."""
        return not isinstance(self.options, SearchOptions)

    @property
    def goes_down_a_loss(self) -> bool:
        """Whether the method searches by a network's loss."""
        return isinstance(self.options, SinkhornLossOptions | SteOptions)

    def device_for(self, layout: Layout) -> str:
        """Where it runs: `auto` leaves weights of small networks to the CPU, which is done before a GPU has begun.

        Raises:
            UsageError: as `resolve_device`.
        """
        small = self.device == "auto" and not self.looks_at_data and sweep_work(layout) < GPU_WORK
        return "cpu" if small else resolve_device(self.device)


@dataclass(frozen=True, slots=True)
class Method:
    """A `--method`, and what it reads.

    Attributes:
        options: the class of its options; their names are those of the command line.
        given: options that it is named with, besides `--method`.
    """

    name: str
    options: type
    given: str = ""


METHODS = (
    Method("weights", SearchOptions),
    Method("frank-wolfe", SearchOptions),
    Method("sinkhorn", SinkhornSearchOptions),
    Method("sinkhorn", SinkhornLossOptions, " --objective midpoint"),
    Method("activations", ActivationOptions),
    Method("ste", SteOptions),
)
"""Every method. Sinkhorn re-basin is two of them: by the distance of weights, and by a loss."""

NOT_OPTIONS = ("max_sweeps", "patience")
"""Fields that `MatchChoice` gives, or that no option sets."""


def match_choice(method: str = "weights", given: Mapping[str, object] | None = None, **common: Any) -> MatchChoice:
    """A choice from options by name.

    Args:
        given: options of methods; None is one that was not given.
        common: the other fields of `MatchChoice`.

    Raises:
        UsageError: there is no such method, or an option that it does not read.
    """
    told = {name: value for name, value in (given or {}).items() if value is not None}
    found = _method(method, told.get("objective"))
    known = _defaults(found.options)
    for name, value in told.items():
        if name not in known:
            _refuse_unread(found, name, value)
    if "mix" in told:
        _check_mix(told["mix"], told.get("similarity"))
    choice = MatchChoice(method, found.options(**{name: told[name] for name in told if name in known}), **common)
    if choice.cluster is not None:
        _check_cluster(choice)
    return choice


def _check_cluster(choice: MatchChoice) -> None:
    """Refuse what workers cannot be told."""
    if choice.looks_at_data:
        raise UsageError(
            f"--cluster: workers run no networks of yours, and --method {choice.method} does",
            remedy="use --method weights, frank-wolfe or sinkhorn; or leave --cluster away",
        )
    for option, given in (
        ("--time-budget", choice.time_budget is not None), ("--on-interrupt save", choice.on_interrupt == "save")
    ):  # fmt: skip
        if given:
            raise UsageError(
                f"{option} ends the matches of this process early, and with --cluster they run in others",
                remedy=f"leave {option} away, or --cluster",
            )


def _check_mix(mix: Any, similarity: object) -> None:
    if mix < 1 and similarity == "covariance":
        raise UsageError(
            "--mix brings activations to the scale of weights, and a covariance has a scale of its own",
            remedy="leave --similarity away, or --mix",
        )


def effective_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """A command's options by name, with the defaults of the method and without options that it does not read."""
    if "method" not in values:
        return dict(values)
    objective = values.get("objective")
    own = _defaults(_method(str(values["method"]), str(objective) if objective else None).options)
    of_methods = {name for method in METHODS for name in _defaults(method.options)}
    read = {name: value for name, value in values.items() if name in own or name not in of_methods}
    return {name: own.get(name) if value is None else value for name, value in read.items()}


def _method(name: str, objective: object) -> Method:
    by_loss = name == "sinkhorn" and objective not in (None, "distance")
    found = [m for m in METHODS if m.name == name and (m.options is SinkhornLossOptions) == by_loss]
    if not found:
        names = dict.fromkeys(m.name for m in METHODS)
        raise UsageError(
            f"there is no method `{name}`", remedy=did_you_mean(name, names) or f"the methods are {', '.join(names)}"
        )
    return found[0]


def _defaults(options: type) -> dict[str, object]:
    """The options of a class by name, with their defaults."""
    return {f.name: f.default for f in fields(options) if f.name not in NOT_OPTIONS}


def _refuse_unread(method: Method, name: str, value: object) -> None:
    readers = [m for m in METHODS if name in _defaults(m.options)]
    option = f"--{name.replace('_', '-')}"
    own = ", ".join(dict.fromkeys(f"--method {reader.name}{reader.given}" for reader in readers))
    raise UsageError(
        f"{option} {value}: --method {method.name} does not read it",
        remedy=f"leave it out; it belongs to {own}",
    )


def search_record(choice: MatchChoice) -> dict[str, str]:
    """Options of matching, as text, that another permutation can come from."""
    common = {name: getattr(choice, name) for name in ("method", "seed", "max_sweeps", "time_budget")}
    own = {name: getattr(choice.options, name) for name in _defaults(type(choice.options))}
    return {f"--{name.replace('_', '-')}": str(value) for name, value in sorted({**common, **own}.items())}


def search_longer(choice: MatchChoice) -> str:
    """Options, added to those of a run, with which a match may find a better optimum: what its method has to offer."""
    options = choice.options
    if isinstance(options, ActivationOptions):
        return "--method ste"
    if isinstance(options, SteOptions | SinkhornLossOptions):
        return f"--epochs {2 * options.epochs}"
    if options.quality == "high" or options.restarts is not None:
        return f"--restarts {2 * options.descents}"
    return "--quality high"


def missing_data(choice: MatchChoice, *, judged: bool = False) -> UsageError:
    """What is said where a method has no examples; `judged`: a command is in the place of --data."""
    objective = getattr(choice.options, "objective", None)
    how = f"{choice.method} --objective {objective}" if objective else choice.method
    option = "--fit-data" if judged else "--data"
    return UsageError(f"--method {how} looks at examples, and there are none", remedy=f"add {option} PATH")


def with_data(
    choice: MatchChoice, data: DataRequest | None, pair: Pair, device: str, progress: Progress
) -> MatchChoice:
    """The choice with the examples its method looks at, if it looks at any.

    Raises:
        UsageError: there are none. RebasinError: they do not fit the network.
    """
    if not choice.looks_at_data:
        return choice
    learns = isinstance(choice.options, SteOptions) and pair.layout.rotated()
    if pair.layout.signed() and not learns:
        raise UsageError(
            f"--method {choice.method} turns no signs, and --symmetry asks for them",
            remedy="use --method weights, frank-wolfe or sinkhorn, or leave out --symmetry",
        )
    if data is None or (data.path or data.fit) is None:
        raise missing_data(choice, judged=data is not None and data.judges)
    load_torch()
    from rebasin_cli.pipeline.match_data import prepare_match_data

    fitting = prepare_match_data(data, pair.layout, pair.a, choice.method, device, progress)
    return replace(choice, fitting=fitting)
