"""`interpolate`: the line from A to B, its loss, and the networks on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from rebasin_cli.api import requests
from rebasin_cli.api.calls import Talk, public
from rebasin_cli.api.keywords import InterpolateKeywords
from rebasin_cli.api.models import GivenModel, first_module, given_model, load_state, module_with
from rebasin_cli.api.permutations import UnitPermutation, unit_permutation
from rebasin_cli.api.showing import Row, Shown, distance_rows, spec_row
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.errors import UsageError
from rebasin_cli.merging.options import Blend, check_lambda
from rebasin_cli.pipeline.interpolate import Run, checked_targets, prepare
from rebasin_cli.pipeline.interpolate_request import InterpolateRequest
from rebasin_cli.pipeline.points import PathPoints, check_dtypes
from rebasin_cli.report.document import DistanceRecord, RunDocument
from rebasin_cli.report.figures import loss_text
from rebasin_cli.report.measurements import BarrierRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from rebasin_cli.api.models import Model
    from rebasin_cli.pipeline.interpolate_run import Measured

Lambda = float | Literal["best"]


@dataclass(eq=False, repr=False)
class Interpolation(Shown):
    """The line from A (λ = 0) to B (λ = 1), as B is and with its units in A's order.

    Attributes:
        document: the run document, as the command writes it.
    """

    document: RunDocument
    _models: tuple[GivenModel, GivenModel]
    _run: Run
    _measured: Measured
    _talk: Talk
    _files: ExitStack

    @property
    def lam(self) -> tuple[float, ...]:
        """λ, the weight on B, of each point; both ends included."""
        return self._run.points.grid

    @property
    def losses(self) -> Mapping[str, tuple[float, ...]]:
        """The loss at each λ by curve: "naive", "aligned", "aligned + bn" and the like, "ensemble".

        Empty without a loss. NaN where it could not be measured; `document.barrier.failures` says why.
        """
        return {name: curve.loss for name, curve in self._curves().items()}

    @property
    def barriers(self) -> Mapping[str, float]:
        """The barrier of each curve; see `barrier`."""
        return {name: curve.barrier for name, curve in self._curves().items()}

    @property
    def barrier(self) -> float | None:
        """How far the loss rises above the line between the ends, at most, on the last curve; None without a loss.

        In the unit of the loss (Entezari et al., arXiv:2110.06296, equation 1). The last curve is the one that the most
        was done for: repaired, or aligned, or naive with `align=False`.
        """
        best = self.document.barrier.best if self.document.barrier else None
        return best[1].barrier if best else None

    @cached_property
    def permutation(self) -> UnitPermutation | None:
        """For each dim the unit of B that goes to each place; None with `align=False`."""
        alignment = self._measured.alignment
        if alignment.permutation is None:
            return None
        of = {role: entry.identity for role, entry in self._measured.inputs.items()}
        return unit_permutation(alignment.permutation, self._run.pair.layout, alignment.file, of)

    @property
    def distance(self) -> DistanceRecord:
        """‖A − B‖ and the cosine between them, before and after."""
        assert self.document.distance is not None
        return self.document.distance

    @property
    def gains(self) -> Mapping[str, float]:
        """What each dim adds to ⟨A, π(B)⟩."""
        dims = self.document.architecture.dims if self.document.architecture else {}
        return {name: dim.gain for name, dim in dims.items() if dim.gain is not None}

    @public()
    def at(self, lam: Lambda, *, weight: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """The state dict at λ: (1 − λ)·A + λ·π(B), of A's keys, shapes, dtypes and devices.

        Args:
            lam: from 0 to 1, or "best": the point between the ends with the lowest loss on the last curve.
            weight: λ of its own for tensors by pattern.

        Raises:
            UsageError: λ is outside of 0 to 1, or "best" without a loss.

        Example:
            >>> middle = rebasin.interpolate(a, b, align=False).at(0.5)
            >>> torch.allclose(middle["fc.0.bias"], (a["fc.0.bias"] + b["fc.0.bias"]) / 2)
            True
        """
        from rebasin_cli.pipeline.interpolate_run import polished_point, recipe_of
        from rebasin_cli.pipeline.write_points import point_reader, second_end

        run = self._with(self._number(lam), None, weight)
        b = second_end(run.pair, self._measured.alignment.permutation)
        assert run.points.at is not None
        polished = polished_point(run, run.points.at, self._measured)
        read = point_reader(run.points.at, run.pair, b, recipe_of(run, run.points, self._measured, polished))
        return self._models[0].state(run.pair.a, read)

    @public()
    def module(self, lam: Lambda) -> nn.Module:
        """A copy of the module that was passed as A, at λ.

        Raises:
            UsageError: A was no module.

        Example:
            >>> type(rebasin.interpolate(model_a, model_b).module(0.5)).__name__
            'Perceptron'
        """
        return module_with(self._models[0], self.at(lam))

    @public()
    def save(
        self,
        path: str | os.PathLike[str],
        *,
        at: Lambda,
        weight: Mapping[str, float] | None = None,
        force: bool = False,
    ) -> Path:
        """Write what `rebasin interpolate A B --at LAM -o PATH` writes: the checkpoint at λ, and the run document.

        Raises:
            UsageError: it exists or is an input, or λ is none. SystemFailure: it cannot be written.

        Example:
            >>> rebasin.interpolate(a, b).save("half.safetensors", at=0.5).name
            'half.safetensors'
        """
        from rebasin_cli.pipeline.interpolate_run import write

        run = self._with(self._number(at), Path(path), weight, force=force)
        with Outputs(force=force) as outputs:
            write(run, self._measured, outputs, self._talk)
        return Path(path)

    @public()
    def plot(self) -> Figure:
        """The losses along λ with their barriers, and the accuracy beside them, as a figure of matplotlib.

        Raises:
            UsageError: there is no loss, or matplotlib is not installed (the extra `plot`).

        Example:
            >>> path = rebasin.interpolate(a, b, loss=lambda state: float(state["fc.0.bias"].square().mean()), steps=3)
            >>> path.plot().axes[0].get_xlabel()
            'A  ←  λ, the weight on B  →  B'
        """
        from rebasin_cli.report.png import figure_of

        return figure_of(self._barrier("plot() draws losses"))

    def _title(self) -> str:
        return f"the line from A to B, {len(self.lam)} points"

    def _rows(self) -> list[Row]:
        rows = [(f"{name} barrier", loss_text(barrier)) for name, barrier in self.barriers.items()]
        return [*rows, *distance_rows(self.document), spec_row(self.document)]

    def _curves(self) -> Mapping[str, Any]:
        return self.document.barrier.curves if self.document.barrier else {}

    def _barrier(self, why: str) -> BarrierRecord:
        if self.document.barrier is None:
            raise UsageError(
                f"{why}, and there are none", remedy="interpolate(a, b, loss=FUNCTION), or data= of examples"
            )
        return self.document.barrier

    def _number(self, lam: Lambda) -> float:
        if lam == "best":
            from rebasin_cli.pipeline.points import best_point

            if len(self.lam) < 3:
                raise UsageError("'best' chooses between the ends, and no point is there", remedy="steps=3 or more")
            return best_point(self._barrier("'best' chooses by the loss"), self._talk)
        if isinstance(lam, str) or not isinstance(lam, int | float):
            raise UsageError(f"λ is {lam!r}", remedy="give a number from 0 to 1, or 'best'")
        check_lambda(lam)
        return float(lam)

    def _with(self, lam: float, output: Path | None, weight: Mapping[str, float] | None, *, force: bool = False) -> Run:
        """The run with one point to be made."""
        before = self._run.request
        for own in (weight or {}).values():
            check_lambda(own)
        blend = Blend(before.blend.how, tuple((weight or {}).items()))
        request = replace(before, at=lam, blend=blend, output=output, force=force)
        points = PathPoints(output, lam, self.lam, self._run.points.are_folders)
        check_dtypes(self._run.pair)
        targets = checked_targets(request, self._run.pair, points, ())
        return replace(self._run, request=request, points=points, targets=targets)


@public(InterpolateKeywords)
def interpolate(
    a: Model,
    b: Model,
    *,
    loss: str | Callable[[Any], Any] | None = None,
    **options: Unpack[InterpolateKeywords],
) -> Interpolation:
    """Walk the line from A to B, naive and aligned, as `rebasin interpolate A B` does (arXiv:2209.04836, section 2).

    Args:
        a, b: modules, state dicts or paths, as for `align`.
        loss: a function that is given the network at each λ and returns its loss, a float: a copy of the module, in
            evaluation mode and without gradients, where one of `a` and `b` is a module (or `network=` one), and
            otherwise the state dict. The copy is the same at each λ, with other weights. Or the name of
            a loss by which the examples of `data=` are judged: "cross-entropy", "mse", "mae".
        options: those of `align`, and: steps: points from 0 to 1. align: False leaves B as it is. permutation: what
            `align` found, or a file, instead of a match. combine: "lerp" or "slerp". data, split, limit, batch_size,
            metric, eval_command, eval_server, eval_timeout: what judges, in the place of a function. repair, fit_data,
            fit_limit: "bn" or "repair" of statistics, and on what. ensemble: True adds the curve of both ends' averaged
            answers. calibrate: True judges each point at a temperature of its own, fitted on `fit_data`. resume: a file
            that keeps the run document while the line is walked, with its permutation beside it, and is gone on from
            if it is there. polish:
            "least-squares" or "distill": how the weights of `at(λ)` are fitted to both.

    Returns:
        The line: `barrier`, `losses`, `lam`, `at(λ)`, `plot()`, `save(path, at=λ)`, `document`.

    Raises:
        UsageError, ContentError, SystemFailure: as `align`; and if the function raises or returns no number.

    Example:
        >>> path = rebasin.interpolate(model_a, model_b, loss=loss, steps=5)
        >>> path.lam
        (0.0, 0.25, 0.5, 0.75, 1.0)
        >>> path.barriers["aligned"] <= path.barriers["naive"]
        True
    """
    talk, files = Talk(bars=options.get("progress", False)), ExitStack()
    given: dict[str, Any] = {**options, "loss": loss}
    models = given_model("A", a, talk), given_model("B", b, talk)
    choice = requests.matching(given)
    judge = judge_of(loss, given, models)
    named = {name: given[name] for name in ("steps", "align") if given.get(name) is not None}
    if given.get("permutation") is not None:
        named["permutation"] = requests.permutation_of(given["permutation"])
    if given.get("resume") is not None:
        named["resume"] = Path(given["resume"])
    if given.get("combine") is not None:
        named["blend"] = Blend(given["combine"])
    request = InterpolateRequest(
        models[0].source, models[1].source, requests.spec_choice(given), choice=choice,
        data=requests.judged(given, models, choice, judge), **named,
    )  # fmt: skip
    run = prepare(request, files, talk)
    from rebasin_cli.pipeline.interpolate_run import measure, write

    with Outputs(ours=run.kept.files()) as outputs:
        outputs.claim(*run.targets.paths().values())
        measured = measure(run, outputs, talk)
        document = write(run, measured, outputs, talk)
    return Interpolation(document, models, run, measured, talk, files)


def judge_of(
    loss: object, given: Mapping[str, Any], models: Sequence[GivenModel]
) -> Callable[[Mapping[str, Tensor]], Any] | None:
    """A function of a state's tensors, from one of a module or of a state dict."""
    if loss is None or isinstance(loss, str):
        return None
    if not callable(loss):
        raise UsageError(
            f"loss is a {type(loss).__name__}", remedy="pass a function that is given the network and returns its loss"
        )
    function, keys = loss, models[0].keys
    network = given.get("network")
    module = first_module(models) if network is None or isinstance(network, str) else network
    if module is None:
        return lambda state: function({key: state[key] for key in keys or state})
    runner = deepcopy(module).eval()
    return lambda state: function(load_state(runner, state).eval())
