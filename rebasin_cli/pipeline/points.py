"""Checkpoints along the path: which, where they go, and what of them is the first model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.header import has_torch_type, is_floating
from rebasin_cli.checkpoints.places import check_file_target, check_space, check_target, needed_bytes
from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.layouts import Pair
from rebasin_cli.pipeline.points_folder import PointsRun, check_points
from rebasin_cli.pipeline.targets import Place
from rebasin_cli.report.figures import loss_text
from rebasin_cli.report.measurements import BarrierRecord
from rebasin_cli.safe_text import first_names, listed
from rebasin_cli.spec import Layout


@dataclass(frozen=True, slots=True)
class PathPoints:
    """Which points of a path are written, and where.

    Attributes:
        output: a checkpoint (with `at`), a folder of checkpoints (without), a pipe, or None where none is written.
        at: the λ of the one point; None for all points of the grid.
        are_folders: whether every point is a folder, as A is.
    """

    output: Place | None
    at: float | None
    grid: tuple[float, ...]
    are_folders: bool

    @property
    def role(self) -> str:
        """Of the output."""
        return "points" if self.at is None else "merged"

    def count(self) -> int:
        """How many points are written."""
        return 0 if self.output is None else 1 if self.at is not None else len(self.grid)

    def files(self) -> dict[float, Path]:
        """λ → path of every checkpoint that becomes a file."""
        if not isinstance(self.output, Path):
            return {}
        output = self.output.absolute()
        if self.at is not None:
            return {self.at: output}
        ending = "" if self.are_folders else ".safetensors"
        return {lam: output / f"lam-{lam:.4f}{ending}" for lam in self.grid}

    def in_folder(self) -> dict[str, Path] | None:
        """What a message calls each file of a folder of points → its path; None if there is no such folder."""
        return {f"λ = {lam:g}": path for lam, path in self.files().items()} if self.at is None else None


def best_point(barrier: BarrierRecord, progress: Progress) -> float:
    """The λ between the ends with the lowest loss on the curve that is written.

    An end is a network that is there already, and no merge: where it is better, that is said.

    Raises:
        ContentError: no loss could be measured.
    """
    losses = barrier.best[1].loss if barrier.best else ()
    (_, at_a), *inside, (_, at_b) = zip(barrier.lam, losses, strict=True)
    finite = [(loss, lam) for lam, loss in inside if isfinite(loss)]
    if not finite:
        raise ContentError("--at best: no point between the ends has a loss", remedy="say which point: --at 0.5")
    loss, lam = min(finite)
    progress.remark(
        f"the lowest loss between the ends is {loss_text(loss)}, at λ = {lam:g}: chosen on the examples it was "
        "measured on"
    )
    better = [f"{name} alone has {loss_text(end)}" for name, end in (("A", at_a), ("B", at_b)) if end <= loss]
    if better:
        progress.warn(f"no merge is better than the ends: {' and '.join(better)}, the best merge {loss_text(loss)}")
    return lam


def check_points_name(points: PathPoints, *, force: bool) -> Path | None:
    """Refuse a place that cannot become a folder of points; that folder, None where there is none.

    Raises:
        UsageError, SystemFailure: it names a file, or there is no place for it.
    """
    if not isinstance(points.output, Path) or points.at is not None:
        return None
    folder = points.output.absolute()
    if folder.is_file() or folder.suffix == ".safetensors":
        raise UsageError(
            f"{folder} names a file, and a path of {len(points.grid)} points is a folder of files",
            remedy="say which point it is with --at LAM, or name a folder",
        )
    if not folder.is_dir():
        check_file_target(folder, force=force)
    return folder


def check_points_folder(
    points: PathPoints, pair: Pair, inputs: Sequence[Path], run: PointsRun, *, force: bool,
    tell: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Refuse a folder that cannot take all points of the grid.

    Args:
        run: what is known by now of the run that the folder is to belong to.
        tell: see `check_space`.

    Raises:
        UsageError, SystemFailure: see `check_points_name`, `check_target`, `check_points` and `check_space`.
    """
    folder = check_points_name(points, force=force)
    if folder is None:
        return
    read = [file.path for checkpoint in (pair.a, pair.b) for file in checkpoint.files.values()]
    there = check_points(folder, run, [pair.a.path, pair.b.path, *read, *inputs], force=force)
    files = points.files()
    if folder.is_dir():
        for path in files.values():
            if path.name not in there and (force or path.exists()):
                check_target(path, pair.a, force=force)
    missing = len(files) - len(there)
    check_space(folder, missing * needed_bytes(pair.a), tell)


def is_first(layout: Layout, first: Checkpoint, key: str) -> bool:
    """Whether the tensor is the first model's where nothing is mixed: left out of the match, or of integers."""
    return layout.tensors[key].section == "ignored" or not is_floating(first.infos[key].dtype)


def _has_like(pair: Pair, key: str) -> bool:
    """Whether B has a tensor of the same shape."""
    return key in pair.b and pair.b.infos[key].shape == pair.a.infos[key].shape


def check_dtypes(pair: Pair) -> None:
    """Refuse dtypes of A to which nothing can be rounded."""
    for key, info in pair.a.infos.items():
        if pair.layout.tensors[key].section != "ignored" and not has_torch_type(info.dtype):
            raise ContentError(
                f"{key} is of type {info.dtype}, to which nothing between A and B can be rounded",
                where=pair.a.address,
                remedy="convert both checkpoints to bfloat16 first, or leave it alone with --ignore",
            )


def tell_lacking(pair: Pair, progress: Progress, first: str = "A", second: str = "B") -> None:
    """Say where what is measured and mixed of the second network is not all of it."""
    alone = [key for key, t in pair.layout.tensors.items() if t.spoken and not _has_like(pair, key)]
    parts = []
    if alone:
        parts.append(f"{first}'s {listed(alone, 'tensor')} stand for those that it lacks or has in another shape")
    if pair.only_b:
        parts.append(f"{listed(list(pair.only_b), 'tensor')} are left out, as {first} has none")
    if parts:
        progress.warn(f"{second} is not measured and mixed as it is: " + "; ".join(parts))


def tell_kept(pair: Pair, progress: Progress) -> None:
    """Say which tensors and dtypes are A's."""
    kept = [key for key in pair.a if is_first(pair.layout, pair.a, key)]
    if kept:
        shown = first_names(kept, 3)
        progress.remark(f"not mixed, being integers or left out of the match: {len(kept)} tensors of A ({shown})")
    other = {
        (pair.a.infos[key].dtype, pair.b.infos[key].dtype)
        for key in pair.a
        if key in pair.b and pair.a.infos[key].dtype != pair.b.infos[key].dtype
    }
    for mine, theirs in sorted(other):
        progress.remark(f"B's {theirs} tensors are mixed into A's {mine}: the result has A's dtypes")
