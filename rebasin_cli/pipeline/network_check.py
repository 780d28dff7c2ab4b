"""A checkpoint run before and after it is permuted, on the network that `function_check` found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import ContentError, RebasinError, SystemFailure
from rebasin_cli.evaluation.comparing import Run, change, first_difference, rounding
from rebasin_cli.evaluation.evaluate import AnyNetwork
from rebasin_cli.evaluation.probes import EXAMPLES, Probe, network_probe, own_probe, pretrained_probe
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.data import find_network, read_data
from rebasin_cli.pipeline.data_request import DataRequest
from rebasin_cli.pipeline.function_check import AnotherFunctionError, FunctionCheck
from rebasin_cli.pipeline.layouts import Pair
from rebasin_cli.pipeline.match_data import MatchData
from rebasin_cli.pipeline.scoring import NetworkScorer, Scorer
from rebasin_cli.report.document import CheckedRecord
from rebasin_cli.spec import Layout

_HELD = 64_000_000
"""Bytes up to which B is kept in memory, run in float64 where it can be, and compared many times."""

ASSUMED = "that this is your network is assumed, as names and shapes fit"

_SURE, _FEW = 8, 2
"""Random permutations by which a spec is compared, for small checkpoints and for others: a wrong one survives each
with a probability of a half at most."""


class Widened(Mapping[str, Tensor]):
    """A state with real tensors in a type that holds all of their values, or more; lazy."""

    def __init__(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self._state, self._dtype = state, dtype

    def __getitem__(self, key: str) -> Tensor:
        tensor = self._state[key]
        return tensor.to(torch.promote_types(tensor.dtype, self._dtype)) if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


_DIMS = 64  # up to which an error says which of them break the function


@dataclass(frozen=True, slots=True)
class _Begun:
    """A state that the network runs on: its name, tensors, the run, and its outputs."""

    name: str
    state: Mapping[str, Tensor]
    run: Run
    reference: Mapping[str, Tensor]


class NetworkCheck(FunctionCheck):
    """Compares a checkpoint with itself, permuted, on a network; keeps what is known."""

    def __init__(self, probe: Probe, progress: Progress, *, asked: bool = True) -> None:
        """`asked`: whether the user named what is run."""
        super().__init__("")
        self._probe: Probe | None = probe  # None once it was given up
        self._progress, self._asked = progress, asked
        self._error, self._count = 0.0, 0

    def record(self) -> CheckedRecord:
        if self._probe is None or not self._count:
            return CheckedRecord(why=self._why or "there was nothing to permute")
        why = ASSUMED if self._probe.built_in else ""
        return CheckedRecord(self._probe.name, self._probe.examples, self._count, self._error, why)

    def spec(self, layout: Layout, seed: int, *states: Checkpoint) -> None:
        count = _SURE if states[0].nbytes <= _HELD else _FEW
        self._compare(layout, states, [Permutation.random(layout, seed + at) for at in range(count)])

    def found(self, layout: Layout, permutation: Permutation, *states: Checkpoint) -> None:
        self._compare(layout, states, [permutation])

    def _compare(self, layout: Layout, states: Sequence[Checkpoint], drawn: Sequence[Permutation]) -> None:
        probe = self._probe
        if probe is None or not layout.moving():
            return
        with (
            self._progress.phase("comparing before and after", len(drawn), "permutations") as advance,
            torch.random.fork_rng(devices=[]),
        ):
            begun = self._begin(probe, states, wide=bool(layout.scaled() or layout.rotated()))
            if begun is None:
                return
            state, run, reference = begun.state, begun.run, begun.reference
            for permutation in drawn:
                error = change(reference, run(permuted(permutation, layout, state), None))
                if not error <= (tolerance := _tolerance(error, run, state, reference)):
                    if change(reference, run(state, None)) > tolerance:
                        self._give_up(f"{probe.name} gives other outputs at every run")
                        return
                    raise _another_function(probe, layout, begun, permutation, error, tolerance)
                self._error, self._count = max(self._error, error), self._count + 1
                advance(1)

    def _begin(self, probe: Probe, states: Sequence[Checkpoint], *, wide: bool) -> _Begun | None:
        """The first of the states that the network runs on: its name, its tensors, a run and the outputs.

        Args:
            wide: take tensors in the type the network runs in, so that rounding to their own is no difference.

        Raises:
            ContentError: it runs on none, and the user named it.
        """
        whys: list[str] = []
        raised: Exception | None = None
        bound = states[-1].infos
        for checkpoint in states:
            if any(key not in checkpoint or checkpoint.infos[key].shape != info.shape for key, info in bound.items()):
                continue
            small = checkpoint.nbytes <= _HELD
            plain: Mapping[str, Tensor] = dict(checkpoint) if small else checkpoint
            for dtype in (torch.float64, torch.float32) if small else (torch.float32,):
                run = probe.run_in(dtype)
                state = Widened(plain, dtype) if wide else plain
                name = checkpoint.path.name
                try:
                    reference = run(state, None)
                except SystemFailure:
                    raise
                except Exception as error:  # the user's own code, or a library's
                    whys.append(f"{probe.name} does not run on {name}: {str(error) or type(error).__name__}")
                    raised = error
                    continue
                if any(bool(output.isfinite().any()) for output in reference.values()):
                    return _Begun(name, state, run, reference)
                whys.append(f"{probe.name} gives no finite outputs on {name}")
        if raised is not None and self._asked:
            raise ContentError(
                whys[0],
                remedy="examples and network must fit; it is run in evaluation mode, in float64 or float32",
            ) from raised
        self._give_up(whys[0])
        return None

    def _give_up(self, why: str) -> None:
        self._probe, self._why = None, why.splitlines()[0][:200]
        tell = self._progress.warn if self._asked else self._progress.detail
        tell(f"B was not compared before and after: {self._why}")


def check_by_named(
    pair: Pair, device: str, progress: Progress, scorer: Scorer | None, fitting: MatchData | None,
    data: DataRequest | None,
) -> NetworkCheck | None:  # fmt: skip
    """The check by what the user named, if there is a network in it; see `prepare_check`."""
    probe, asked = None, True
    if isinstance(scorer, NetworkScorer):
        probe = network_probe(scorer.network, scorer.dataset.inputs, device)
    elif fitting is not None:
        probe = network_probe(fitting.network, fitting.seen.inputs, device)
    elif data is not None and data.path is not None:
        probe = _data_probe(data, pair, device, progress)
    elif data is not None and data.network is not None:
        probe = own_probe(data.network, pair.a, pair.layout.prefix, data.options)
        asked = isinstance(data.network, str) or data.network.inputs is not None
    return NetworkCheck(probe, progress, asked=asked) if probe is not None else None


def _data_probe(data: DataRequest, pair: Pair, device: str, progress: Progress) -> Probe:
    """The network of A on the first examples of `--data`."""
    assert data.path is not None
    network: AnyNetwork = find_network(data, pair.layout, pair.a)
    examples = read_data(data, data.path, data.fit_split, data.fit_limit or EXAMPLES, network, pair.a, progress)
    return network_probe(network, examples.inputs, device)


def check_by_folder(checkpoint: Checkpoint, progress: Progress) -> FunctionCheck:
    """The check by the model that config.json names; where it cannot be built, one that says why."""
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    assert checkpoint.config is not None
    try:
        probe = pretrained_probe(checkpoint.config, folder, checkpoint)
    except RebasinError as error:
        return FunctionCheck(error.what)
    except Exception as error:  # a library's
        return FunctionCheck(f"the network of config.json cannot be built ({type(error).__name__})")
    return NetworkCheck(probe, progress, asked=False)


def _tolerance(error: float, run: Run, state: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """What is rounding in this network; not measured where the error is none anyway."""
    return error if error <= 1e-9 else rounding(run, state, reference)


def _another_function(
    probe: Probe, layout: Layout, begun: _Begun, permutation: Permutation, error: float, tolerance: float
) -> AnotherFunctionError:
    """The refusal: how much, from which module on, and what to do."""
    spec, state, run = layout.spec, begun.state, begun.run

    def keeps(dims: Sequence[str]) -> bool:
        part = permutation.only(dims)
        return change(begun.reference, run(permuted(part, layout, state), None)) <= tolerance

    computed = {*permutation.scales, *permutation.maps}
    moving = [dim for dim in permutation if permutation.fraction_moved(dim) or dim in computed]
    breaking = [dim for dim in moving if not keeps([dim])] if len(moving) <= _DIMS else []
    rest = [dim for dim in moving if dim not in breaking]
    first = first_difference(run, state, permuted(permutation, layout, state))
    seen = f"first seen in what {first} makes" if first else "seen in the outputs alone"
    alone = f"; permuting {', '.join(breaking[:8])} alone breaks it" if breaking else ""
    freeze = " ".join(f"--freeze {dim}" for dim in breaking)
    way = f", or leave out what breaks it: {freeze}" if breaking and rest and keeps(rest) else ""
    return AnotherFunctionError(
        f"names and shapes fit the spec `{spec.name}`, but the network is another: permuted by it, {begun.name} gives "
        f"other outputs, by {error:.2g} of the largest ({tolerance:.0e} would be rounding)",
        where=f"{probe.name}, {probe.examples} examples; {seen}{alone}",
        remedy="derive a spec from this network with `rebasin arch derive MODULE:FUNCTION -o FILE.yaml`, or write one "
        "(architectures/README.md) and prove it with `rebasin arch prove FILE --network MODULE:FUNCTION`; name it with "
        f"--arch{way}",
    )
