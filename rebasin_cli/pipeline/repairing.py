"""What `rebasin repair` does to a checkpoint: its statistics repaired, or its weights fitted, and the loss told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.evaluate import AnyNetwork, Judging, evaluate
from rebasin_cli.evaluation.losses import Loss
from rebasin_cli.pipeline.data import batch_size_of, network_and_data
from rebasin_cli.pipeline.polisher import Polisher, prepare_polisher
from rebasin_cli.pipeline.progress import Progress
from rebasin_cli.pipeline.repair import RepairRequest
from rebasin_cli.pipeline.repairer import Overlay, Repairer
from rebasin_cli.report.figures import loss_text, percent_text
from rebasin_cli.spec import Layout

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Repairing:
    """What repairs, and on what; loss: None where the examples have no answers."""

    request: RepairRequest
    network: AnyNetwork
    examples: Dataset
    loss: Loss | None
    polisher: Polisher | None
    device: str
    progress: Progress

    def repair(
        self, state: Checkpoint, ends: Sequence[State], weights: Sequence[float]
    ) -> tuple[Overlay, dict[str, str]]:
        """The checkpoint repaired, and what its metadata say of it."""
        if self.polisher is not None:
            repaired = list(self.polisher.polish(state, ends, weights).values())[-1]
            recipe = {"polish": self.polisher.recipe}
        else:
            repairer = Repairer(self.network, self.examples, self.device, self.progress)
            if ends:
                repairer.measure_ends(*ends)
            repaired = repairer.between(state, weights, self.request.kind)
            recipe = {"repair": self.request.kind}
        for when, each in (("before", state), ("after", repaired)):
            self._tell(when, each)
        return repaired, recipe

    def _tell(self, when: str, state: State) -> None:
        if self.loss is None:
            return
        size = batch_size_of(self.network)
        scores = evaluate(self.network, state, self.examples, Judging(self.loss, size, self.device))
        right = f", accuracy {percent_text(scores.accuracy)}" if self.loss.classes else ""
        unit = self.loss.unit
        self.progress.remark(f"{when}: loss {loss_text(scores.loss)} ({unit}){right} on the examples fitted on")


def prepare_repairing(
    request: RepairRequest, layout: Layout, checkpoint: Checkpoint, device: str, progress: Progress
) -> Repairing:
    """Find the network and the examples, and refuse what cannot be done with them.

    Raises:
        RebasinError: no network, examples that do not fit it, or nothing to repair.
    """
    data = request.data
    fit = replace(data, fit=data.path, fit_limit=data.limit, fit_split=data.split)
    polisher = prepare_polisher(fit, layout, checkpoint, device, progress)
    if polisher is not None:
        return Repairing(request, polisher.network, polisher.examples, polisher.loss, polisher, device, progress)
    network, examples, loss = network_and_data(data, layout, checkpoint, progress)
    instead = "--end A --end B.aligned.safetensors, the two that were merged,"
    Repairer(network, examples, device, progress).check(request.kind, instead)
    return Repairing(request, network, examples, loss, None, device, progress)
