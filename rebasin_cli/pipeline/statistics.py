"""The statistics of points of a path: channels are measured once at both ends, and every point repaired with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.evaluate import AnyNetwork, runner
from rebasin_cli.evaluation.options import Kind
from rebasin_cli.hooks import Run
from rebasin_cli.merging.channel_statistics import Channels, measure_channels, repair_channels, reset_statistics
from rebasin_cli.pipeline import Progress

FIT_EXAMPLES = 2000
"""Examples that statistics are taken from, unless the user says otherwise: tens of thousands change little."""

FIT_BATCH = 500
"""Examples at a time while fitting: statistics are those of batches, which must not be small."""


class Overlay(Mapping[str, Tensor]):
    """A lazy state with some tensors exchanged, in the dtypes they had."""

    def __init__(self, state: Mapping[str, Tensor], changed: Mapping[str, Tensor]) -> None:
        self._state, self.changed = state, changed

    def __getitem__(self, key: str) -> Tensor:
        found = self.changed.get(key)
        return self._state[key] if found is None else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


@dataclass(slots=True)
class Repairer:
    """Finishes states of one architecture with the statistics of some examples.

    Attributes:
        ends: channels of A and of B, or of every model of a merge, all in A's order; measured when first needed.
    """

    network: AnyNetwork
    examples: Dataset
    device: str
    progress: Progress
    ends: tuple[dict[str, Channels], ...] | None = None

    def check(self, kind: Kind, instead: str = "--repair repair") -> None:
        """Refuse what cannot be done, from names alone.

        Args:
            instead: how the command at hand rescales channels.

        Raises:
            ContentError: there are no running statistics to recompute.
        """
        if kind == "bn" and not any(name.endswith("running_var") for name in self.network.shapes):
            raise ContentError(
                f"the {self.network.family} network has no BatchNorm, so that there are no statistics to recompute",
                remedy=f"{instead} rescales the channels of any network",
            )

    def measure_ends(self, *states: Mapping[str, Tensor]) -> None:
        """Measure the channels of the networks that are mixed, all in one order."""
        with self.progress.phase("measuring the ends' channels", len(states), "networks") as advance:
            found = []
            for state in states:
                found.append(measure_channels(self._load(state), self._run))
                advance(1)
            self.ends = tuple(found)

    def finish(self, state: Mapping[str, Tensor], lam: float, kind: Kind) -> Mapping[str, Tensor]:
        """The state at λ with its statistics repaired; the ends themselves stay as they are."""
        return state if lam in (0.0, 1.0) else self.between(state, (1 - lam, lam), kind)

    def between(self, state: Mapping[str, Tensor], weights: Sequence[float], kind: Kind) -> Overlay:
        """A state with its statistics repaired; `weights` of the ends tell where between them it lies."""
        params = self._load(state)
        if kind == "bn":
            repaired = reset_statistics(params, self._run)
        else:
            assert self.ends is not None
            tied = {name for group in self.network.tied for name in group}
            shared = [name for name in self.ends[0] if tied & {f"{name}.weight", f"{name}.bias"}]
            names = [name for name in self.ends[0] if name not in shared]
            goals = {name: Channels.mixed([end[name] for end in self.ends], weights) for name in names}
            repaired = repair_channels(params, self._run, goals)
            if shared:  # a correction would be folded into what another layer reads too
                self.progress.warn(f"REPAIR, {', '.join(shared)}: tied to another layer, so nothing is corrected there")
        for text in repaired.remarks:
            self.progress.warn(f"REPAIR, {text}")
        changed = {
            key: tensor.cpu().to(state[key])
            for name, tensor in repaired.changed.items()
            for key in self.network.keys(name)
            if key in state
        }
        return Overlay(state, changed)

    def _load(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.network.load(state, self.device)

    @property
    def _run(self) -> Run:
        return runner(self.network, self.examples, FIT_BATCH)
