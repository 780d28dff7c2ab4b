"""`repair`: a merged network's statistics, or its weights, brought to fit."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from rebasin_cli.api import requests
from rebasin_cli.api.calls import Talk, public
from rebasin_cli.api.keywords import RepairKeywords
from rebasin_cli.api.models import GivenModel, given_model, module_with
from rebasin_cli.api.showing import html_table, spec_row, text_of
from rebasin_cli.checkpoints.outputs import save_file
from rebasin_cli.errors import UsageError
from rebasin_cli.pipeline.repair import RepairRequest
from rebasin_cli.pipeline.repair import repair as repair_by_request
from rebasin_cli.report.document import RunDocument

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rebasin_cli.api.models import Model

_TITLE = "a network whose statistics fit its weights"


@dataclass(eq=False, repr=False)
class Repaired:
    """A network after `repair`.

    Attributes:
        document: the run document.
    """

    document: RunDocument
    _model: GivenModel
    _written: bytes

    @cached_property
    def repaired(self) -> dict[str, Tensor]:
        """Its tensors, in the order, with the types and on the devices that they had."""
        from safetensors.torch import load

        from rebasin_cli.checkpoints.held import held_checkpoint

        tensors = load(self._written)
        return self._model.state(held_checkpoint("the network", tensors), tensors.__getitem__)

    @public()
    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the checkpoint that `rebasin repair CKPT -o PATH` writes; `document` is not written.

        Raises:
            UsageError: it exists. SystemFailure: it cannot be written.

        Example:
            >>> path = rebasin.interpolate(a, b)
            >>> fixed = rebasin.repair(path.at(0.5), data=data, ends=(a, path.at(1)))
            >>> fixed.save("fixed.safetensors").name
            'fixed.safetensors'
        """
        return save_file(Path(path), self._written, force=force)

    @public()
    def module(self) -> nn.Module:
        """A copy of the module that was passed, with these tensors.

        Raises:
            UsageError: it was no module.

        Example:
            >>> type(rebasin.repair(model_a, data=data, ends=(model_a, model_a)).module()).__name__
            'Perceptron'
        """
        return module_with(self._model, self.repaired)

    def __repr__(self) -> str:
        return text_of(_TITLE, [spec_row(self.document)])

    def _repr_html_(self) -> str:
        return html_table(_TITLE, [spec_row(self.document)])


@public(RepairKeywords)
def repair(
    model: Model, *, data: Any, ends: Sequence[Model] = (), lam: float | None = None, **options: Unpack[RepairKeywords]
) -> Repaired:
    """Bring a merged network's statistics to fit its weights, as `rebasin repair CKPT --data FILE` does.

    Args:
        model: a module, a state dict or a path.
        data: examples, as for `align`; the training half of data that have two.
        ends: none: statistics of BatchNorm are recomputed. The two networks between which it lies, the second in the
            order of the first: every channel is rescaled (REPAIR, arXiv:2211.08403). With `polish` all that were
            merged.
        lam: where between two ends it lies, 0 to 1; None for the middle.
        options: polish, polish_steps: fit its weights to the outputs of the ends instead. spec, set, freeze, ignore,
            network, network_option, split, limit, sequence_length, image_size, normalise, loss, device: as for `align`.

    Raises:
        UsageError, ContentError, SystemFailure: as `align`; and ends that do not fit what is asked for.

    Example:
        >>> path = rebasin.interpolate(a, b)
        >>> fixed = rebasin.repair(path.at(0.5), data=data, ends=(a, path.at(1)))
        >>> fixed.repaired.keys() == a.keys()
        True
    """
    talk, stream = Talk(bars=options.get("progress", False)), io.BytesIO()
    given: dict[str, Any] = {**options, "data": data}
    models = [given_model("the network", model, talk), *(given_model("an end", end, talk) for end in ends)]
    if isinstance(lam, bool) or not isinstance(lam, int | float | None):
        raise UsageError(f"lam is {lam!r}", remedy="pass a number from 0 to 1")
    request = RepairRequest(
        models[0].source, requests.repairing(given, models), tuple(end.source for end in models[1:]), lam,
        requests.spec_choice(given), stream, device=options.get("device", "auto"),
    )  # fmt: skip
    document = repair_by_request(request, talk)
    return Repaired(document, models[0], stream.getvalue())
