"""`merge`: several networks in one order of units, and their mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from rebasin_cli.api import requests
from rebasin_cli.api.calls import Talk, public
from rebasin_cli.api.interpolating import judge_of
from rebasin_cli.api.keywords import MergeKeywords
from rebasin_cli.api.models import GivenModel, OneNetwork, each_of, given_model
from rebasin_cli.api.permutations import UnitPermutation, unit_permutation
from rebasin_cli.api.showing import Row, spec_row
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.errors import UsageError
from rebasin_cli.pipeline.merge import MergeRequest, Run, checked_targets, prepare
from rebasin_cli.pipeline.record import role_of
from rebasin_cli.report.document import RunDocument
from rebasin_cli.report.figures import loss_text, percent_text
from rebasin_cli.report.measurements import MergeRecord, ScoreRecord

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_cli.api.models import Model
    from rebasin_cli.pipeline.merge_run import Found


@dataclass(eq=False, repr=False)
class Merge(OneNetwork):
    """What `merge` made.

    Attributes:
        document: the run document, as the command writes it; `document.merge` has all figures.
    """

    document: RunDocument
    _models: tuple[GivenModel, ...]
    _run: Run
    _found: Found
    _talk: Talk
    _files: ExitStack

    @cached_property
    def merged(self) -> dict[str, Tensor]:
        """The state dict of the mean, with the keys, shapes, dtypes and devices of the first network."""
        from rebasin_cli.pipeline.merge_run import merged_reader

        return self._models[0].state(self._run.first, merged_reader(self._run, self._found))

    @cached_property
    def permutations(self) -> tuple[UnitPermutation, ...]:
        """Of each network into the order of the first, whose own is the identity."""
        from rebasin_cli.pipeline.merge_run import permutation_file

        first, found = self._found.inputs[role_of(0)].identity, self._found
        return tuple(
            unit_permutation(
                permutation, self._run.layout, permutation_file(self._run, found, i),
                {"a": first, "b": found.inputs[role_of(i)].identity},
            )
            for i, permutation in enumerate(found.result.permutations)
        )  # fmt: skip

    @property
    def weights(self) -> tuple[float, ...]:
        """The share of each network; they sum to 1."""
        return self._run.weights

    @property
    def scores(self) -> Mapping[str, ScoreRecord]:
        """Loss and accuracy of each network, of the naive average and of the merge; empty without a loss."""
        return self._record.scores

    @public()
    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write what `rebasin merge … -o PATH` writes: the mean, all permutations, and the run document.

        Raises:
            UsageError: it exists, or is an input. SystemFailure: it cannot be written.

        Example:
            >>> rebasin.merge([a, b]).save("mean.safetensors").name
            'mean.safetensors'
        """
        from rebasin_cli.pipeline.merge_run import write

        request = replace(self._run.request, output=Path(path), force=force)
        run = replace(self._run, request=request, targets=checked_targets(request, self._run.pairs))
        with Outputs(force=force) as outputs:
            write(run, self._found, outputs, self._talk)
        return Path(path)

    def _made(self) -> tuple[GivenModel, dict[str, Tensor]]:
        return self._models[0], self.merged

    @property
    def _record(self) -> MergeRecord:
        assert self.document.merge is not None
        return self.document.merge

    def _title(self) -> str:
        return f"{len(self._models)} networks merged by {self._record.algorithm}, {self._record.method}"

    def _rows(self) -> list[Row]:
        rows = [(name, _score_text(score)) for name, score in self.scores.items()]
        before, after = ([getattr(pair, side) for pair in self._record.pairs] for side in ("before", "after"))
        distance = f"{sum(before) / len(before):.5g} → {sum(after) / len(after):.5g}" + (
            f", mean of {len(before)} pairs" if len(before) > 1 else ""
        )
        return [*rows, ("distance", distance), spec_row(self.document)]


@public(MergeKeywords)
def merge(
    models: Sequence[Model],
    *,
    loss: str | Callable[[Any], Any] | None = None,
    **options: Unpack[MergeKeywords],
) -> Merge:
    """Bring N networks into one order of units and take their mean, as `rebasin merge` does.

    By default all are matched together so that going round a circle of them changes nothing; "merge-many" is
    Algorithm 3 of Git Re-Basin (arXiv:2209.04836).

    Args:
        models: two or more modules, state dicts or paths, of one architecture. The result is like the first. A path
            `FILE:models.*` stands for all members of a file whose tensors' names begin so.
        loss: as for `interpolate`.
        options: those of `align`, and: weights: a number above zero for each network; equal by default. algorithm:
            "cycle-consistent", "frank-wolfe", "merge-many", "to-first" or "hierarchical". data, eval_command, metric,
            repair, polish, fit_data and steps (points between two networks): as for `interpolate`.

    Returns:
        The merge: `merged`, `permutations`, `scores`, `save`, `document`.

    Raises:
        UsageError, ContentError, SystemFailure: as `align`.

    Example:
        >>> mean = rebasin.merge([a, b, a], weights=[1, 2, 1])
        >>> mean.weights
        (0.25, 0.5, 0.25)
        >>> list(mean.merged) == list(a)
        True
    """
    talk, files = Talk(bars=options.get("progress", False)), ExitStack()
    given: dict[str, Any] = {**options, "loss": loss}
    if isinstance(models, str | os.PathLike | Mapping) or not isinstance(models, Sequence):
        raise UsageError(f"models is a {type(models).__name__}", remedy="pass a list of two networks or more")
    each = [one for model in models for one in each_of(model)]
    taken = tuple(given_model(f"model {i}", model, talk) for i, model in enumerate(each, 1))
    choice = requests.matching(given)
    named = {name: given[name] for name in ("steps", "algorithm") if given.get(name) is not None}
    if given.get("weights") is not None:
        named["weights"] = tuple(map(float, given["weights"]))
    data = requests.judged(given, taken, choice, judge_of(loss, given, taken))
    request = MergeRequest(
        tuple(model.source for model in taken), None, requests.spec_choice(given), data=data, choice=choice, **named
    )
    run = prepare(request, files, talk)
    from rebasin_cli.pipeline.merge_run import describe, find

    found = find(run, talk)
    return Merge(describe(run, found, talk), taken, run, found, talk, files)


def _score_text(score: ScoreRecord) -> str:
    accuracy = "" if score.accuracy != score.accuracy else f", {percent_text(score.accuracy)} right"
    return f"loss {loss_text(score.loss)}{accuracy}"
