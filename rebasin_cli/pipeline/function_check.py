"""Whether B permuted is still B: wherever a network is at hand it is run before and after.

Names and shapes do not tell a network: a residual one of equal widths has those of a plain chain. So the spec is
compared with the network under random permutations before any long work, and under the permutation that was found
before anything is written. Where there is no network to run, that the spec fits is *assumed*, and said to be.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import ContentError, RebasinError, SystemFailure
from rebasin_cli.evaluation.comparing import Run, change, first_difference, rounding
from rebasin_cli.evaluation.probes import EXAMPLES, Probe, network_probe, own_probe, pretrained_probe
from rebasin_cli.evaluation.sweep import AnyNetwork
from rebasin_cli.failures import human_bytes
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline.data import DataRequest, find_network, read_data
from rebasin_cli.pipeline.layouts import Pair
from rebasin_cli.pipeline.match_data import MatchData
from rebasin_cli.pipeline.progress import Progress
from rebasin_cli.pipeline.scoring import NetworkScorer, Scorer
from rebasin_cli.report.document import CheckedRecord
from rebasin_cli.spec import Layout

LARGEST = 2_000_000_000
"""Bytes of a checkpoint up to which it is run before and after."""

LARGEST_FOLDER = 600_000_000
"""The same where nobody named a network or data, and the one that config.json names is built for this alone."""

_HELD = 64_000_000
"""Bytes up to which B is kept in memory, run in float64 where it can be, and compared many times."""

_SURE, _FEW = 8, 2
"""Random permutations by which a spec is compared, for small checkpoints and for others: a wrong one survives each
with a probability of a half at most."""

_DIMS = 64  # up to which an error says which of them break the function

ASSUMED = "that this is your network is assumed, as names and shapes fit"
NOTHING_AT_HAND = "no network was run (--network or --data does)"


@dataclass(frozen=True, slots=True)
class _Begun:
    """A state that the network runs on: its name, tensors, the run, and its outputs."""

    name: str
    state: Mapping[str, Tensor]
    run: Run
    reference: Mapping[str, Tensor]


class AnotherFunctionError(ContentError):
    """A spec fits names and shapes, and the network is another."""


class FunctionCheck:
    """Compares a checkpoint with itself, permuted, on a network; keeps what is known."""

    def __init__(self, probe: Probe | None, why: str, progress: Progress, *, asked: bool = True) -> None:
        """`probe`: None if nothing can be run, and `why`; `asked`: whether the user named what is run."""
        self._probe, self._why, self._progress, self._asked = probe, why, progress, asked
        self._error, self._count = 0.0, 0

    def record(self) -> CheckedRecord:
        """What the document says of it."""
        if self._probe is None or not self._count:
            return CheckedRecord(why=self._why or "there was nothing to permute")
        why = ASSUMED if self._probe.built_in else ""
        return CheckedRecord(self._probe.name, self._probe.examples, self._count, self._error, why)

    def spec(self, layout: Layout, seed: int, *states: Checkpoint) -> None:
        """Compare under random permutations of all dims that may move, before any long work.

        Args:
            layout: bound to the names that the network knows.
            states: the checkpoint to compare, and the one to whose shapes `layout` and network are bound. It stands
                in for the other where that has other shapes (another head, say) or cannot be run: whichever weights
                a network has, a spec that keeps its function keeps it.

        Raises:
            ContentError: it becomes another function.
        """
        count = _SURE if states[0].nbytes <= _HELD else _FEW
        self._compare(layout, states, [Permutation.random(layout, seed + at) for at in range(count)])

    def found(self, layout: Layout, permutation: Permutation, *states: Checkpoint) -> None:
        """Compare under the permutation that is about to be used; see `spec`.

        Raises:
            ContentError: it becomes another function.
        """
        self._compare(layout, states, [permutation])

    def _compare(self, layout: Layout, states: Sequence[Checkpoint], drawn: Sequence[Permutation]) -> None:
        probe = self._probe
        if probe is None or not layout.moving():
            return
        with (
            self._progress.phase("comparing before and after", len(drawn), "permutations") as advance,
            torch.random.fork_rng(devices=[]),
        ):
            begun = self._begin(probe, states)
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

    def _begin(self, probe: Probe, states: Sequence[Checkpoint]) -> _Begun | None:
        """The first of the states that the network runs on: its name, its tensors, a run and the outputs.

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
            state: Mapping[str, Tensor] = dict(checkpoint) if small else checkpoint
            for dtype in (torch.float64, torch.float32) if small else (torch.float32,):
                run = probe.run_in(dtype)
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


def prepare_check(
    pair: Pair,
    device: str,
    progress: Progress,
    *,
    scorer: Scorer | None = None,
    fitting: MatchData | None = None,
    data: DataRequest | None = None,
) -> FunctionCheck:
    """Find a network and inputs for it: those that are judged by, matched by, named by the user, or a folder's own.

    Raises:
        RebasinError: a network or data that were named for this cannot be used.
    """
    named = scorer is not None or fitting is not None or data is not None
    size = max(pair.a.nbytes, pair.b.nbytes)
    if named and size > LARGEST:
        why = f"the checkpoints are of {human_bytes(size)}, and up to {human_bytes(LARGEST)} are compared"
        progress.warn(f"B was not compared before and after: {why}")
        return FunctionCheck(None, why, progress)
    if isinstance(scorer, NetworkScorer):
        return FunctionCheck(network_probe(scorer.network, scorer.dataset.inputs, device), "", progress)
    if fitting is not None:
        return FunctionCheck(network_probe(fitting.network, fitting.seen.inputs, device), "", progress)
    if data is not None and data.path is not None:
        return FunctionCheck(_data_probe(data, pair, device, progress), "", progress)
    if data is not None and data.network is not None:
        return FunctionCheck(own_probe(data.network, pair.a, pair.layout.prefix, data.options), "", progress)
    return FunctionCheck(*_folder_probe(pair.a, size), progress, asked=False)


def _data_probe(data: DataRequest, pair: Pair, device: str, progress: Progress) -> Probe:
    """The network of A on the first examples of `--data`."""
    assert data.path is not None
    network: AnyNetwork = find_network(data, pair.layout, pair.a)
    examples = read_data(data, data.path, data.fit_split, data.fit_limit or EXAMPLES, network, pair.a, progress)
    return network_probe(network, examples.inputs, device)


def _folder_probe(checkpoint: Checkpoint, size: int) -> tuple[Probe | None, str]:
    """The model that config.json names, if it is small and can be built; otherwise why not."""
    config = checkpoint.config
    if config is None or not config.get("architectures"):
        return None, NOTHING_AT_HAND
    if size > LARGEST_FOLDER:
        return None, f"above {human_bytes(LARGEST_FOLDER)} the network is run with --data only"
    if importlib.util.find_spec("transformers") is None:
        return None, "transformers, which has the network, is not installed"
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    try:
        return pretrained_probe(config, folder, checkpoint), ""
    except RebasinError as error:
        return None, error.what
    except Exception as error:  # a library's
        return None, f"the network of config.json cannot be built ({type(error).__name__})"


def _tolerance(error: float, run: Run, state: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """What is rounding in this network; not measured where the error is none anyway."""
    return error if error <= 1e-9 else rounding(run, state, reference)


def _another_function(
    probe: Probe, layout: Layout, begun: _Begun, permutation: Permutation, error: float, tolerance: float
) -> AnotherFunctionError:
    """The refusal: how much, from which module on, and what to do."""
    spec, state, run = layout.spec, begun.state, begun.run

    def keeps(dims: Sequence[str]) -> bool:
        part = Permutation({dim: permutation[dim] for dim in dims if dim in permutation})
        return change(begun.reference, run(permuted(part, layout, state), None)) <= tolerance

    moving = [dim for dim in permutation if permutation.fraction_moved(dim)]
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
