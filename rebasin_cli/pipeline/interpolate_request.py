"""What `rebasin interpolate` is asked for, and the combinations of options that cannot be carried out."""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rebasin_cli.errors import UsageError
from rebasin_cli.merging.options import LINE, Blend, check_lambda, lambda_grid
from rebasin_cli.permutation.files import SavedPermutation
from rebasin_cli.pipeline.inputs import Source
from rebasin_cli.pipeline.layouts import Pair, SpecChoice
from rebasin_cli.pipeline.method_choice import MatchChoice, search_longer
from rebasin_cli.report.document import RunDocument
from rebasin_cli.safe_text import shell_word

if TYPE_CHECKING:  # examples and networks, which not every command has
    from rebasin_cli.pipeline.data_request import DataRequest


@dataclass(frozen=True, slots=True)
class PlaneGrid:
    """The points of a plane: `steps` × `steps`, and how far around the triangle they go (see `merging.plane`)."""

    steps: int = 21
    margin: float = 0.2


@dataclass(frozen=True, slots=True)
class InterpolateRequest:
    """What the user asked for.

    Attributes:
        document: what the command before the pipe did; its inputs are a and b, and nothing is matched again.
        align: False leaves B as it is (`--no-align`).
        permutation: a permutation to take instead of matching: a file, or what was read from one.
        at: the one λ to write; None writes every point of the grid, if there is an output.
        best: write the point of the grid with the lowest loss, the ends aside (`--at best`); `at` does not count then.
        blend: how the points are combined; weights of its own are for the one point that is written.
        resume: the document that is kept while sweeping, and gone on from if it is there.
        output: a checkpoint (with `at`), a folder of checkpoints (without), or a pipe.
        plane: measure the plane through A, B and π(B) instead of the line (`rebasin plane`).
    """

    a: Source
    b: Source
    spec: SpecChoice = field(default_factory=SpecChoice)
    document: RunDocument | None = None
    align: bool = True
    permutation: Path | SavedPermutation | None = None
    steps: int = 25
    at: float | None = None
    best: bool = False
    blend: Blend = LINE
    data: DataRequest | None = None
    output: Path | BinaryIO | None = None
    save_permutation: Path | None = None
    plot: Path | None = None
    report: Path | None = None
    resume: Path | None = None
    choice: MatchChoice = field(default_factory=MatchChoice)
    force: bool = False
    dry_run: bool = False
    allow_non_finite: bool = False
    plane: PlaneGrid | None = None

    @property
    def command(self) -> str:
        """Which of the two commands it is."""
        return "plane" if self.plane else "interpolate"

    @property
    def judged(self) -> bool:
        """Whether the path has a loss."""
        return self.data is not None and self.data.judges

    @property
    def matches(self) -> bool:
        """Whether a permutation is looked for, instead of being given."""
        return self.align and self.permutation is None and self.document is None

    def files(self) -> list[Path]:
        """Every file that is read besides the two checkpoints."""
        data = self.data.inputs() if self.data else []
        return data + ([self.permutation] if isinstance(self.permutation, Path) else [])


MOST_FILES = 10_001
"""Checkpoints of a path, which are called after λ: `lam-0.5000.safetensors`."""


def checked_grid(request: InterpolateRequest) -> tuple[float, ...]:
    """The λ of the path, after every combination of options that cannot be carried out was refused."""
    if request.best and not request.judged:
        raise UsageError("--at best chooses by the loss, and without data there is none", remedy="add --data FILE")
    if request.best and request.steps < 3:
        raise UsageError(
            f"--at best chooses between the ends, and --steps {request.steps} has no point there",
            remedy="--steps 3 or more; 25 is usual",
        )
    if request.blend.weights and request.at is None:
        raise UsageError("--weight is for the one point that is written", remedy="name it: --at 0.5")
    for _, own in request.blend.weights:
        check_lambda(own)
    if request.at is not None or request.best:
        check_lambda(request.at or 0.0)
        if request.output is None:
            raise UsageError("--at names a point to write, and there is no output", remedy="add -o FILE.safetensors")
    elif request.output is not None and not isinstance(request.output, Path):
        raise UsageError("-o - streams one checkpoint", remedy="say which: --at 0.5 -o -")
    elif request.output is not None and request.steps > MOST_FILES:
        raise UsageError(
            f"{request.steps:,} checkpoints cannot be told apart by the four digits of λ in their names",
            remedy=f"write at most {MOST_FILES:,}: --steps {MOST_FILES}; or leave -o away, and only measure",
        )
    if request.plot and not request.judged:
        raise UsageError("--plot draws losses, and without data there are none", remedy="add --data FILE")
    if request.permutation and not request.align and request.document is None:
        raise UsageError("--permutation and --no-align contradict each other", remedy="leave one of them away")
    if request.save_permutation and not request.align:
        raise UsageError("--save-permutation: with --no-align there is none", remedy="leave one of them away")
    if request.plot:
        from rebasin_cli.report.png import form_of, require_matplotlib

        form_of(request.plot)
        require_matplotlib()
    return lambda_grid(request.steps)


def check_weights(request: InterpolateRequest, pair: Pair) -> None:
    """Every pattern of `--weight` is for some tensor that the spec knows."""
    known = [key for key, bound in pair.layout.tensors.items() if bound.section != "ignored"]
    for pattern, _ in request.blend.weights:
        if not fnmatch.filter(known, pattern):
            raise UsageError(
                f"--weight {pattern}: no tensor is called so", remedy="`rebasin inspect` lists the tensors; quote the *"
            )


def better_optimum(request: InterpolateRequest) -> str:
    """What may bring the barrier down, of what this run has not done."""
    if not request.align:
        return "leave --no-align away: B was measured in its own order"
    if request.permutation is not None or request.document is not None:
        named = " ".join(shell_word(os.path.abspath(source.shown)) for source in (request.a, request.b))
        return f"`rebasin align {named} --quality high` may find a better permutation than the one that was given"
    options = search_longer(request.choice) + (" --force" if request.resume else "")
    return f"`{options}` may find a better optimum"
