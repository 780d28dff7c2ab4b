"""Checkpoints along the path: where they go, and writing them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from rebasin_cli.checkpoints import Checkpoint, Outputs, check_target, torch_dtype
from rebasin_cli.checkpoints.replacing import check_space
from rebasin_cli.checkpoints.writer import needed_bytes
from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.merging import LINE, Blend, interpolated
from rebasin_cli.permutation import Permutation, permuted
from rebasin_cli.pipeline.binding import Pair
from rebasin_cli.pipeline.choices import SpecChoice
from rebasin_cli.pipeline.listener import Listener
from rebasin_cli.pipeline.points import PointsRun, begin_points, check_points
from rebasin_cli.pipeline.record import output_metadata
from rebasin_cli.pipeline.repairing import Kind, Repairer
from rebasin_cli.pipeline.sides import listed
from rebasin_cli.pipeline.targets import beside, check_apart, check_files, check_weights_name, output_base
from rebasin_cli.pipeline.work import write_weights
from rebasin_cli.report.document import InputRecord
from rebasin_cli.spec import Layout


@dataclass(frozen=True, slots=True)
class PathTargets:
    """Outputs of `rebasin interpolate`. `at`: the λ of `weights`; None if that is a folder of points."""

    weights: Path | BinaryIO | None
    at: float | None
    plot: Path | None
    permutation: Path | None
    report: Path | None

    def paths(self) -> dict[str, Path]:
        """Role → path of everything that becomes a file or a folder."""
        named = {"plot": self.plot, "permutation": self.permutation, "report": self.report}
        named["merged" if self.at is not None else "points"] = self.weights if isinstance(self.weights, Path) else None
        return {role: path for role, path in named.items() if path is not None}

    def points(self, grid: Sequence[float], *, is_folder: bool) -> dict[float, Path]:
        """λ → path of every checkpoint that becomes a file."""
        if not isinstance(self.weights, Path):
            return {}
        if self.at is not None:
            return {self.at: self.weights}
        ending = "" if is_folder else ".safetensors"
        return {lam: self.weights / f"lam-{lam:.4f}{ending}" for lam in grid}


def path_targets(
    output: Path | BinaryIO | None,
    at: float | None,
    plot: Path | None,
    permutation: Path | None,
    report: Path | None,
    pair: Pair,
) -> PathTargets:
    """Name every output; the document lies beside the checkpoints unless it is named."""
    if isinstance(output, Path):
        output = output.absolute()
        report = report or beside(output_base(output), ".rebasin.json")
    absolute = [path.absolute() if path else None for path in (plot, permutation, report)]
    return PathTargets(output, at, *absolute)


def check_path_targets(
    targets: PathTargets,
    grid: Sequence[float],
    pair: Pair,
    inputs: Sequence[Path],
    *,
    force: bool,
    run: PointsRun,
    ours: Collection[Path] = (),
) -> None:
    """Every collision among the outputs, and what no output could hold.

    Args:
        run: what is known by now of the run that a folder of points is to belong to.
        ours: files that an earlier run left to be gone on with, which may be replaced.

    Raises:
        UsageError, SystemFailure: see `check_target`.
        ContentError: A has a dtype to which nothing can be rounded.
    """
    points = targets.points(grid, is_folder=pair.a.is_folder)
    check_apart(
        [pair.a, pair.b, *inputs], {**targets.paths(), **{f"λ = {lam:g}": path for lam, path in points.items()}}
        if targets.at is None else targets.paths(),
    )  # fmt: skip
    for path in (targets.plot, targets.permutation, targets.report):
        check_files((path,), force=force or path in ours)
    if targets.weights is None:
        return
    check_dtypes(pair)
    if not isinstance(targets.weights, Path):
        return
    if targets.at is not None:
        check_weights_name(targets.weights, is_folder=pair.a.is_folder)
        check_target(targets.weights, pair.a, force=force)
        return
    if targets.weights.is_file() or targets.weights.suffix == ".safetensors":
        raise UsageError(
            f"{targets.weights} names a file, and a path of {len(grid)} points is a folder of files",
            remedy="say which point it is with --at LAM, or name a folder",
        )
    read = [file.path for checkpoint in (pair.a, pair.b) for file in checkpoint.files.values()]
    there = check_points(targets.weights, run, [pair.a.path, pair.b.path, *read, *inputs], force=force)
    if targets.weights.is_dir():
        for path in points.values():
            if path.name not in there and (force or path.exists()):
                check_target(path, pair.a, force=force)
    else:
        check_files((targets.weights,), force=force)
    missing = len(points) - len(there)
    check_space(targets.weights, missing * needed_bytes(pair.a))


@dataclass(frozen=True, slots=True)
class PathRecipe:
    """What the points of a path are made with, as their metadata tell.

    Attributes:
        method: that found the permutation in this run; None if it was given.
        kind: of repair, by `repairer`; None for none.
        run: that a folder of points belongs to.
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

    def metadata(self, layout: Layout, lam: float, *, aligned: bool, alone: bool) -> dict[str, str]:
        """Of one point; `alone`: it is the only one, and stands in no folder."""
        told: dict[str, object] = {"lambda": lam, "aligned": aligned}
        if self.repairer and self.kind:
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
    targets: PathTargets,
    pair: Pair,
    permutation: Permutation | None,
    grid: Sequence[float],
    recipe: PathRecipe,
    outputs: Outputs,
    listener: Listener,
) -> dict[str, str]:
    """Write the point `at` with the other outputs, or all of the grid as they come, repaired if that was asked for.

    Returns role → path.
    """
    if targets.weights is None:
        return {}
    tell_kept(pair, listener)
    b = permuted(permutation, pair.layout, pair.b) if permutation is not None else pair.b
    points: dict[float, Path | BinaryIO] = {**targets.points(grid, is_folder=pair.a.is_folder)}
    if not isinstance(targets.weights, Path):
        assert targets.at is not None
        points = {targets.at: targets.weights}
    elif targets.at is None:
        companions = {path.name for path in pair.a.companions}
        there = begin_points(targets.weights, recipe.run, companions, force=outputs.force)
        if there:
            listener.remark(f"{len(there)} of {len(points)} points are there already, and stay as they are")
        points = {lam: path for lam, path in points.items() if not isinstance(path, Path) or path.name not in there}
    repairer, kind = recipe.repairer, recipe.kind
    if repairer and kind == "repair" and repairer.ends is None:
        repairer.measure_ends(pair.a, b)
    for lam, target in points.items():
        state = interpolated(pair.layout, pair.a, b, lam, recipe.blend)
        if repairer and kind:
            state = repairer.finish(state, lam, kind)

        def read(key: str, state: Mapping[str, torch.Tensor] = state, lam: float = lam) -> torch.Tensor:
            return pair.a.read_raw(key) if is_first(pair.layout, pair.a, key) and lam < 1.0 else state[key]

        with ExitStack() as alone:
            write_weights(
                target, pair.a, read,
                metadata=recipe.metadata(
                    pair.layout, lam, aligned=permutation is not None, alone=targets.at is not None
                ),
                outputs=alone.enter_context(Outputs(force=outputs.force)) if targets.at is None else outputs,
                listener=listener, finite=recipe.finite,
            )  # fmt: skip
    return {role: str(path) for role, path in targets.paths().items() if role in ("merged", "points")}


def is_first(layout: Layout, first: Checkpoint, key: str) -> bool:
    """Whether the tensor is the first model's where nothing is mixed: left out of the match, or of integers."""
    dtype = torch_dtype(first.infos[key].dtype)
    if layout.tensors[key].section == "ignored":
        return True
    return dtype is not None and not dtype.is_floating_point and not dtype.is_complex


def _has_like(pair: Pair, key: str) -> bool:
    """Whether B has a tensor of the same shape."""
    return key in pair.b and pair.b.infos[key].shape == pair.a.infos[key].shape


def check_dtypes(pair: Pair) -> None:
    """Refuse dtypes of A to which nothing can be rounded."""
    for key, info in pair.a.infos.items():
        if pair.layout.tensors[key].section != "ignored" and torch_dtype(info.dtype) is None:
            raise ContentError(
                f"{key} is of type {info.dtype}, to which nothing between A and B can be rounded",
                where=pair.a.address,
                remedy="convert both checkpoints to bfloat16 first, or leave it alone with --ignore",
            )


def tell_lacking(pair: Pair, listener: Listener, first: str = "A", second: str = "B") -> None:
    """Say where what is measured and mixed of the second network is not all of it."""
    alone = [key for key, t in pair.layout.tensors.items() if t.spoken and not _has_like(pair, key)]
    parts = []
    if alone:
        parts.append(f"{first}'s {listed(alone, 'tensor')} stand for those that it lacks or has in another shape")
    if pair.only_b:
        parts.append(f"{listed(list(pair.only_b), 'tensor')} are left out, as {first} has none")
    if parts:
        listener.warn(f"{second} is not measured and mixed as it is: " + "; ".join(parts))


def tell_kept(pair: Pair, listener: Listener) -> None:
    """Say which tensors and dtypes are A's."""
    kept = [key for key in pair.a if is_first(pair.layout, pair.a, key)]
    if kept:
        shown = ", ".join(kept[:3]) + (", …" if len(kept) > 3 else "")
        listener.remark(f"not mixed, being integers or left out of the match: {len(kept)} tensors of A ({shown})")
    other = {
        (pair.a.infos[key].dtype, pair.b.infos[key].dtype)
        for key in pair.a
        if key in pair.b and pair.a.infos[key].dtype != pair.b.infos[key].dtype
    }
    for mine, theirs in sorted(other):
        listener.remark(f"B's {theirs} tensors are mixed into A's {mine}: the result has A's dtypes")
