"""`apply`: a permutation that was found before, on another network."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from rebasin_cli.api import requests
from rebasin_cli.api.calls import Talk, public
from rebasin_cli.api.keywords import ApplyKeywords
from rebasin_cli.api.models import GivenModel, OneNetwork, given_model
from rebasin_cli.api.showing import Row, distance_rows, spec_row
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.permutation.files import load_permutation
from rebasin_cli.pipeline.apply import ApplyRequest, Run, checked_targets, prepare
from rebasin_cli.report.document import InputRecord, RunDocument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_cli.api.keywords import Permutations
    from rebasin_cli.api.models import Model


@dataclass(eq=False, repr=False)
class Applied(OneNetwork):
    """A network in another order of units.

    Attributes:
        document: the run document, as the command writes it.
    """

    document: RunDocument
    _model: GivenModel
    _run: Run
    _inputs: Mapping[str, InputRecord]
    _talk: Talk
    _files: ExitStack

    @cached_property
    def applied(self) -> dict[str, Tensor]:
        """The state dict, of the network's keys, shapes, dtypes and devices."""
        from rebasin_cli.pipeline.apply_run import applied_reader

        return self._model.state(self._run.checkpoint, applied_reader(self._run))

    @public()
    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write what `rebasin apply PERM CKPT -o PATH` writes: the checkpoint, and the run document.

        Raises:
            UsageError: it exists, or is an input. SystemFailure: it cannot be written.

        Example:
            >>> rebasin.apply(rebasin.align(a, b), b).save("moved.safetensors").name
            'moved.safetensors'
        """
        from rebasin_cli.pipeline.apply_run import write

        request = replace(self._run.request, output=Path(path), force=force)
        saved = load_permutation(request.permutation)
        targets = checked_targets(request, saved, self._run.checkpoint, self._run.layout)
        with Outputs(force=force) as outputs:
            write(replace(self._run, request=request, targets=targets), self._inputs, outputs, self._talk)
        return Path(path)

    def _title(self) -> str:
        return "a network in another order of units"

    def _made(self) -> tuple[GivenModel, dict[str, Tensor]]:
        return self._model, self.applied

    def _rows(self) -> list[Row]:
        return [*distance_rows(self.document), spec_row(self.document)]


@public(ApplyKeywords)
def apply(permutation: Permutations, model: Model, **options: Unpack[ApplyKeywords]) -> Applied:
    """Apply a permutation to a network of the same architecture, bit-exactly, as `rebasin apply PERM CKPT` does.

    Args:
        permutation: what `align` found, its `permutation`, or a permutation file.
        model: a module, a state dict or a path.
        options: inverse: undo the permutation. spec, set, freeze, ignore, network: as for `align`. progress.

    Raises:
        UsageError: what is passed is no permutation. ContentError: it is of another spec, or of other sizes.

    Example:
        >>> found = rebasin.align(a, b)
        >>> moved = rebasin.apply(found, b).applied
        >>> all(torch.equal(moved[key], found.aligned[key]) for key in b)
        True
        >>> back = rebasin.apply(found, moved, inverse=True).applied
        >>> all(torch.equal(back[key], b[key]) for key in b)
        True
    """
    talk, files = Talk(bars=options.get("progress", False)), ExitStack()
    given = given_model("the network", model, talk)
    request = ApplyRequest(
        requests.permutation_of(permutation), given.source, None, requests.spec_choice(options),
        requests.network_request(options, (given,)), inverse=bool(options.get("inverse")),
    )  # fmt: skip
    run = prepare(request, files, talk)
    from rebasin_cli.pipeline.apply_run import check, describe

    inputs = check(run, talk)
    return Applied(describe(run, inputs, talk), given, run, inputs, talk, files)
