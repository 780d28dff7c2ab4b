"""`align`: B's units in A's order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from rebasin_cli.api import requests
from rebasin_cli.api.calls import Talk, public
from rebasin_cli.api.keywords import AlignKeywords
from rebasin_cli.api.models import GivenModel, OneNetwork, given_model
from rebasin_cli.api.permutations import UnitPermutation, unit_permutation
from rebasin_cli.api.showing import Row, distance_rows, spec_row
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.pipeline.align import (
    AlignRequest,
    Found,
    Run,
    aligned_reader,
    checked_targets,
    describe,
    find,
    prepare,
    write,
)
from rebasin_cli.report.document import DistanceRecord, RunDocument

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_cli.api.models import Model


@dataclass(eq=False, repr=False)
class Alignment(OneNetwork):
    """What `align` found.

    Attributes:
        document: the run document, as the command writes it beside B; `document.match` tells how the search went.
    """

    document: RunDocument
    _b: GivenModel
    _run: Run
    _found: Found
    _talk: Talk
    _files: ExitStack

    @cached_property
    def aligned(self) -> dict[str, Tensor]:
        """B's state dict in A's order of units: B's keys, shapes, dtypes and devices, and its bits in other places.

        The tensors share no memory with A or B. Where B is a file it is read now.
        """
        return self._b.state(self._run.b, aligned_reader(self._run, self._found))

    @cached_property
    def permutation(self) -> UnitPermutation:
        """For each dim the unit of B that goes to each place."""
        of = {role: entry.identity for role, entry in self._found.inputs.items()}
        return unit_permutation(self._found.result.permutation, self._run.pair.layout, self._found.file, of)

    @property
    def distance(self) -> DistanceRecord:
        """‖A − B‖ and the cosine of the angle between them, before and after; over the weights that are matched."""
        assert self.document.distance is not None
        return self.document.distance

    @property
    def gains(self) -> Mapping[str, float]:
        """What each dim with all within it adds to ⟨A, π(B)⟩; all of them sum up to the whole rise."""
        return self._found.distance.gains

    @public()
    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write what `rebasin align A B -o PATH` writes: B aligned, the permutation and the run document beside it.

        Args:
            path: `x/out.safetensors`, or a folder where B is one.
            force: replace outputs that exist.

        Returns:
            The path.

        Raises:
            UsageError: it exists, or is an input. SystemFailure: it cannot be written.

        Example:
            >>> found = rebasin.align(a, b)
            >>> found.save("b.aligned.safetensors").name
            'b.aligned.safetensors'
            >>> sorted(path.name for path in Path().glob("b.aligned*"))
            ['b.aligned.permutation.safetensors', 'b.aligned.rebasin.json', 'b.aligned.safetensors']
        """
        request = replace(self._run.request, output=Path(path), force=force, writes=True)
        run = replace(self._run, request=request, targets=checked_targets(request, self._run.pair, self._run.b))
        with Outputs(force=force) as outputs:
            write(run, self._found, outputs, self._talk)
        return Path(path)

    def _title(self) -> str:
        return "B aligned to A"

    def _made(self) -> tuple[GivenModel, dict[str, Tensor]]:
        return self._b, self.aligned

    def _rows(self) -> list[Row]:
        rows = [*distance_rows(self.document), spec_row(self.document)]
        if (match := self.document.match) is not None:
            rows.append(("match", f"{match.method}, {match.stop}"))
        return rows


@public(AlignKeywords)
def align(a: Model, b: Model, **options: Unpack[AlignKeywords]) -> Alignment:
    """Permute B's units onto A's, as `rebasin align A B` does (Git Re-Basin, arXiv:2209.04836, section 3.2).

    A stays, and B's function stays: only the order of its hidden units changes, so that ⟨A, π(B)⟩ is as large as the
    search finds. Nothing is written, and neither network is changed.

    Args:
        a, b: modules, state dicts, or paths of checkpoints, of one architecture. The code of a module is its network:
            where no shipped spec fits, one is derived from it, and B is run before and after it is permuted.
        options: those of the command, by name; `rebasin align --help` says more of each.
            spec: a shipped spec by name (`--arch`), a file, or what `derive` returned; else the one that fits.
            set, freeze, ignore: sizes that shapes do not tell, dims that stay, patterns of tensors to leave out.
            symmetry: "signs" also turns signs of units, "scales" multiplies units by positive numbers, "rotations" maps
                them together, "all" does all three, where the spec says that this keeps the function.
            method: "weights", "frank-wolfe", "sinkhorn", "activations" or "ste"; of one or the other of these are
                objective, start, order, similarity, tap, epochs, learning_rate and momentum.
            seed, restarts, quality, max_sweeps, device, threads, on_interrupt: how the search goes.
            time_budget, memory: seconds or "10m"; bytes or "8GB".
            data, split, limit, fit_batch_size, loss: the examples that a method looks at and the network is run on: a
                path, `package.module:function`, (inputs, targets), or batches of those such as a DataLoader.
            network, network_option, inputs: a module or `package.module:function`, and what it is run on: a tensor,
                a tuple of arguments, a dict of keywords, or sizes as "4x3x32x32"; else a guess by its first layer.
            progress: show bars on stderr.

    Returns:
        What was found: `aligned`, `permutation`, `distance`, `gains`, `document`, and `save`.

    Raises:
        UsageError: keywords that cannot be carried out. ContentError: networks that are not alike, have NaN, or whose
            function would change. SystemFailure: a file that cannot be read. Their text says what to do.

    Example:
        >>> found = rebasin.align(a, b)
        >>> found.distance.after < found.distance.before
        True
        >>> list(found.aligned) == list(b), found.aligned["fc.0.weight"].shape
        (True, torch.Size([8, 32]))
    """
    talk, files = Talk(bars=options.get("progress", False)), ExitStack()
    models = given_model("A", a, talk), given_model("B", b, talk)
    choice = requests.matching(options)
    request = AlignRequest(
        models[0].source, models[1].source, requests.spec_choice(options), choice=choice,
        data=requests.fitted(options, models, choice), writes=False,
    )  # fmt: skip
    run = prepare(request, files, talk)
    found = find(run, talk)
    return Alignment(describe(run, found, talk), models[1], run, found, talk, files)
