"""Polishing a merge: its network and its members run on examples, and the weights that come out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.evaluation.answers import answer_of, class_axis
from rebasin_cli.evaluation.data import Dataset
from rebasin_cli.evaluation.evaluate import AnyNetwork
from rebasin_cli.evaluation.inputs import Inputs
from rebasin_cli.evaluation.losses import TRIED, Loss
from rebasin_cli.evaluation.options import CROSS_ENTROPY, Polish
from rebasin_cli.merging.polishing.distilling import Lessons, distil
from rebasin_cli.merging.polishing.least_squares import Examples, Params, Polished, least_squares
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.data import batch_size_of, find_network, fitting_data, settle_loss
from rebasin_cli.pipeline.data_request import DataRequest
from rebasin_cli.pipeline.scoring import NetworkScorer, Scorer
from rebasin_cli.pipeline.statistics import Overlay
from rebasin_cli.report.figures import loss_text
from rebasin_cli.safe_text import first_names
from rebasin_cli.spec import Layout

EXAMPLES, WINDOWS = 2000, 300
"""Examples, and texts, that a merge is fitted on unless the user says otherwise: three times as many gain .003."""

_BATCHES = 8  # at most: each runs in a thread of its own, for each network, with threads of torch's own behind it
_APART = 10  # one of this many examples is held apart from distillation
_BATCH, _TEXTS = 128, 16  # examples, and texts, of a step of distillation at most

State = Mapping[str, Tensor]


@dataclass(slots=True)
class Polisher:
    """Fits merges of one architecture to their members.

    Attributes:
        kind: how; steps: of distillation.
        loss: that answers are judged by; None where the examples have none.
        axis: of the answers that counts classes; None where they are none, or that is not known.
        frozen: names of tensors that are no mean of the members, and stay.
    """

    network: AnyNetwork
    examples: Dataset
    device: str
    progress: Progress
    kind: Polish
    steps: int
    loss: Loss | None
    axis: int | None
    frozen: frozenset[str]

    @property
    def recipe(self) -> str:
        """What a checkpoint's metadata say of it."""
        return f"{self.kind} on {self.examples.sha256()}"

    def polish(self, state: State, members: Sequence[State], weights: Sequence[float]) -> dict[str, Overlay]:
        """The state with its weights fitted, by how it was done; the last is what was asked for.

        Args:
            state: the merge, of `members` in one order; weights: of the members.
        """
        merged, *loaded = (self.network.load(each, self.device) for each in (state, *members))
        held = {name for name in merged if not any(key in state for key in self.network.keys(name))}
        frozen = self.frozen | held  # what a loader made of several tensors, or of none, cannot be written
        found = self._least_squares(merged, loaded, weights, frozen)
        polished = {"least squares": self._written(state, merged, found.params)}
        if self.kind == "distill":
            params = self._distilled(found.params, loaded, weights, frozen)
            polished["distilled"] = self._written(state, merged, params)
        return polished

    def _least_squares(
        self, merged: Params, members: Sequence[Params], weights: Sequence[float], frozen: frozenset[str]
    ) -> Polished:
        size = max(batch_size_of(self.network), -(-len(self.examples) // _BATCHES))
        batches = [batch.inputs for batch in self.examples.batches(size)]
        few = self.examples.part(slice(TRIED)).inputs
        examples = Examples(self._run, batches, few, self._answer, None if self.axis is None else self._logits)
        with self.progress.phase("least squares", None, "layers") as advance:
            found = least_squares(merged, members, weights, examples, frozen, lambda _: advance)
        self._tell(found)
        return found

    def _distilled(
        self, start: Params, members: Sequence[Params], weights: Sequence[float], frozen: frozenset[str]
    ) -> Params:
        count = max(1, len(self.examples) // _APART)
        if len(self.examples) < 2:
            self.progress.warn("distillation holds examples apart, and there is one: nothing was distilled")
            return start
        order = torch.randperm(len(self.examples), generator=torch.Generator().manual_seed(0))
        apart, seen = (self.examples.part(rows) for rows in (order[:count], order[count:]))
        size = min(batch_size_of(self.network), _BATCH if self.network.answers == "example" else _TEXTS)
        learnt, judged = ([batch.inputs for batch in part.batches(size)] for part in (seen, apart))
        lessons = Lessons(self._run_and_answer, learnt, judged, self.axis)
        free = [name for name in self.network.trainable() if name in start and name not in frozen]
        with self.progress.phase("distilling", self.steps, "steps") as advance:
            found = distil(start, free, members, weights, lessons, steps=self.steps, on_step=advance)
        before, after = found.losses[0], min(found.losses)
        self.progress.remark(
            f"distilled in {len(found.losses) - 1} looks: distance to the ensemble {loss_text(before)} → "
            f"{loss_text(after)} on {count} examples held apart"
        )
        return found.params

    def _run_and_answer(self, params: Params, inputs: Inputs) -> Tensor:
        return self._answer(self.network.outputs(params, inputs))

    def _run(self, params: Params, inputs: Inputs) -> Any:
        return self.network.apart().outputs(params, inputs)

    def _answer(self, outputs: Any) -> Tensor:
        return answer_of(self.network.family, outputs)

    def _logits(self, outputs: Any) -> Tensor | None:
        """(questions, classes); None of answers to tokens, which one temperature does not help."""
        answers = self._answer(outputs)
        if answers.dim() == 2:
            return answers
        return answers.movedim(1, -1).flatten(0, -2) if self.axis == 1 else None

    def _tell(self, found: Polished) -> None:
        """Say what was not fitted, or on too little."""
        if not found.solved:
            self.progress.warn("least squares found no layer that it could fit: the merge stays as it is")
        elif found.left:
            names = self._named(found.left)
            self.progress.warn(f"not fitted, being used twice, tied, or without finite activations: {names}")
        if found.scarce:
            names = self._named(found.scarce)
            self.progress.warn(f"{len(self.examples)} examples are few for the inputs of {names}: more fit better")

    def _named(self, names: Sequence[str]) -> str:
        """Weights as the checkpoint calls them."""
        keys = dict.fromkeys(key for name in names for key in self.network.keys(name))
        return first_names(list(keys), 4, " and {} more")

    def _written(self, state: State, before: Params, after: Params) -> Overlay:
        """The state with what changed, in its own names and dtypes."""
        changed = {
            key: tensor.cpu().to(state[key])
            for name, tensor in after.items()
            if not torch.equal(tensor, before[name])
            for key in self.network.keys(name)
            if key in state
        }
        return Overlay(state, changed)


def prepare_polisher(
    request: DataRequest | None, layout: Layout, checkpoint: Checkpoint, device: str, progress: Progress,
    scorer: Scorer | None = None,
) -> Polisher | None:  # fmt: skip
    """What a merge is polished with; None if that was not asked for.

    Raises:
        RebasinError: no network, or examples that do not fit it.
    """
    if request is None or request.polish is None:
        return None
    judge = scorer if isinstance(scorer, NetworkScorer) else None
    network = judge.network if judge else find_network(request, layout, checkpoint)
    default = EXAMPLES if network.answers == "example" else WINDOWS
    limited = replace(request, fit_limit=request.fit_limit or default)
    examples = fitting_data(limited, network, checkpoint, progress)
    frozen = frozenset(
        name for name in network.shapes for key in network.keys(name) if layout.tensors[key].section == "ignored"
    )
    loss = judge.loss if judge else None
    if loss is None and examples.labelled:
        loss = settle_loss(request.loss, network, checkpoint, examples, progress)
    axis = None
    if (loss and loss.classes) or request.loss == CROSS_ENTROPY:
        axis = _axis(network, checkpoint, judge.dataset if judge else examples, device)
    steps = request.polish_steps
    return Polisher(network, examples, device, progress, request.polish, steps, loss, axis, frozen)


def _axis(network: AnyNetwork, state: State, examples: Dataset, device: str) -> int | None:
    """The axis of a network's answers that counts classes, as their targets tell; of examples without any the last of
    three, else the first behind that of the examples."""
    few = examples.part(slice(TRIED))
    with torch.inference_mode():
        answers = answer_of(network.family, network.outputs(network.load(state, device), few.inputs))
    if few.labelled:
        return class_axis(answers, few.targets)
    return -1 if answers.dim() == 3 else 1
