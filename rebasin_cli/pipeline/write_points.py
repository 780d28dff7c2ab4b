"""Writing checkpoints along the path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.evaluation.options import Kind
from rebasin_cli.merging.interpolation import interpolated
from rebasin_cli.merging.options import LINE, Blend
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.layouts import Pair, SpecChoice
from rebasin_cli.pipeline.points import PathPoints, is_first, tell_kept
from rebasin_cli.pipeline.points_folder import PointsRun, begin_points
from rebasin_cli.pipeline.record import output_metadata
from rebasin_cli.pipeline.statistics import Repairer
from rebasin_cli.pipeline.targets import Place, write_weights
from rebasin_cli.report.document import InputRecord
from rebasin_cli.spec import Layout


@dataclass(frozen=True, slots=True)
class PathRecipe:
    """What the points of a path are made with, as their metadata tell.

    Attributes:
        method: that found the permutation in this run; None if it was given.
        kind: of repair, by `repairer`; None for none.
        run: that a folder of points belongs to.
        polish: how `polished`, the one point that is written, was fitted to both ends; None: it was not.
        finite: whether values that are not finite are refused (see `write_weights`).
    """

    spec: SpecChoice
    inputs: Mapping[str, InputRecord]
    run: PointsRun
    method: str | None = None
    seed: int = 0
    repairer: Repairer | None = None
    kind: Kind | None = None
    blend: Blend = LINE
    finite: bool = True
    polish: str = ""
    polished: Mapping[str, torch.Tensor] | None = None

    def metadata(self, layout: Layout, lam: float, *, aligned: bool, alone: bool) -> dict[str, str]:
        """Of one point; `alone`: it is the only one, and stands in no folder."""
        told: dict[str, object] = {"lambda": lam, "aligned": aligned}
        if self.polish:
            told["polish"] = self.polish
        elif self.repairer and self.kind:
            told["repair"] = self.kind
        if self.blend != LINE:
            weight = ",".join(f"{pattern}={own:g}" for pattern, own in self.blend.weights)
            told |= {"combine": self.blend.how, "weight": weight}
        if not alone:
            told["run"] = self.run.sha256
        if self.method:
            told |= {"method": self.method, "seed": self.seed}
        return output_metadata("interpolate", layout, self.spec, self.inputs, **told)


def write_path(
    points: PathPoints,
    pair: Pair,
    permutation: Permutation | None,
    recipe: PathRecipe,
    outputs: Outputs,
    progress: Progress,
) -> dict[str, str]:
    """Write the point `at` with the other outputs, or all of the grid as they come, repaired if that was asked for.

    Returns role → path.
    """
    if points.output is None:
        return {}
    tell_kept(pair, progress)
    b = second_end(pair, permutation)
    places: Mapping[float, Place] = points.files()
    if not isinstance(points.output, Path):
        assert points.at is not None
        places = {points.at: points.output}
    elif points.at is None:
        places = _missing_points(points, pair, recipe.run, outputs, progress)
    for lam, target in places.items():
        with ExitStack() as alone:
            write_weights(
                target, pair.a, point_reader(lam, pair, b, recipe),
                metadata=recipe.metadata(
                    pair.layout, lam, aligned=permutation is not None, alone=points.at is not None
                ),
                outputs=alone.enter_context(Outputs(force=outputs.force)) if points.at is None else outputs,
                progress=progress, finite=recipe.finite,
            )  # fmt: skip
    return {points.role: str(points.output.absolute())} if isinstance(points.output, Path) else {}


def second_end(pair: Pair, permutation: Permutation | None) -> Mapping[str, torch.Tensor]:
    """B at the end of the path."""
    return permuted(permutation, pair.layout, pair.b) if permutation is not None else pair.b


def point_reader(
    lam: float, pair: Pair, b: Mapping[str, torch.Tensor], recipe: PathRecipe
) -> Callable[[str], torch.Tensor]:
    """Key → the tensor of a point, repaired if that was asked for, or its bytes where nothing is mixed.

    Args:
        b: see `second_end`.
    """
    repairer, kind = recipe.repairer, recipe.kind
    if repairer and kind == "repair" and repairer.ends is None and recipe.polished is None:
        repairer.measure_ends(pair.a, b)
    state = interpolated(pair.layout, pair.a, b, lam, recipe.blend)
    if recipe.polished is not None:
        state = recipe.polished
    elif repairer and kind:
        state = repairer.finish(state, lam, kind)

    def read(key: str) -> torch.Tensor:
        return pair.a.read_raw(key) if is_first(pair.layout, pair.a, key) and lam < 1.0 else state[key]

    return read


def _missing_points(
    points: PathPoints, pair: Pair, run: PointsRun, outputs: Outputs, progress: Progress
) -> dict[float, Path]:
    """Begin the folder, and return λ → path of the points that are not in it yet."""
    assert isinstance(points.output, Path)
    files = points.files()
    companions = {path.name for path in pair.a.companions}
    there = begin_points(points.output.absolute(), run, companions, force=outputs.force)
    if there:
        progress.remark(f"{len(there)} of {len(files)} points are there already, and stay as they are")
    return {lam: path for lam, path in files.items() if path.name not in there}
