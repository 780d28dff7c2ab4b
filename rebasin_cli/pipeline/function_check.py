"""Whether B permuted is still B: wherever a network is at hand it is run before and after.

Names and shapes do not tell a network: a residual one of equal widths has those of a plain chain. So the spec is
compared with the network under random permutations before any long work, and under the permutation that was found
before anything is written. Where there is no network to run, that the spec fits is *assumed*, and said to be.

Here is which network that is; `network_check` runs it. And here is the spec of a network that the user named: a shipped
one if it keeps the function, or else derived from the code.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import ContentError, RebasinError, human_bytes
from rebasin_cli.permutation.files import SavedPermutation
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.layouts import Pair, SpecChoice, bind_models
from rebasin_cli.process import load_torch
from rebasin_cli.report.document import CheckedRecord
from rebasin_cli.spec import Layout

if TYPE_CHECKING:
    from rebasin_cli.permutation.values import Permutation
    from rebasin_cli.pipeline.data_request import DataRequest
    from rebasin_cli.pipeline.match_data import MatchData
    from rebasin_cli.pipeline.scoring import Scorer


LARGEST = 2_000_000_000
"""Bytes of a checkpoint up to which it is run before and after."""

LARGEST_FOLDER = 600_000_000
"""The same where nobody named a network or data, and the one that config.json names is built for this alone."""

NOTHING_AT_HAND = "no network was run (--network or --data does)"


class AnotherFunctionError(ContentError):
    """A spec fits names and shapes, and the network is another."""


class FunctionCheck:
    """The check of a checkpoint for which there is no network: nothing is compared."""

    def __init__(self, why: str) -> None:
        self._why = why

    def record(self) -> CheckedRecord:
        """What the document says of it."""
        return CheckedRecord(why=self._why)

    def spec(self, layout: Layout, seed: int, *states: Checkpoint) -> None:
        """Compare under random permutations of all dims that may move, before any long work.

        Args:
            layout: bound to the names that the network knows.
            states: the checkpoint to compare, and the one to whose shapes `layout` and network are bound. It stands
                in for the other where that has other shapes (another head, say) or cannot be run: whichever weights
                a network has, a spec that keeps its function keeps it.

        Raises:
            ContentError: it becomes another function.
        """

    def found(self, layout: Layout, permutation: Permutation, *states: Checkpoint) -> None:
        """Compare under the permutation that is about to be used; see `spec`.

        Raises:
            ContentError: it becomes another function.
        """


class _FolderCheck(FunctionCheck):
    """A check by the network that config.json names, which is built when it is first run: nobody asked for it."""

    def __init__(self, checkpoint: Checkpoint, progress: Progress) -> None:
        super().__init__("")
        self._checkpoint, self._progress = checkpoint, progress

    @cached_property
    def _built(self) -> FunctionCheck:
        from rebasin_cli.pipeline.network_check import check_by_folder

        return check_by_folder(self._checkpoint, self._progress)

    def record(self) -> CheckedRecord:
        return self._built.record()

    def spec(self, layout: Layout, seed: int, *states: Checkpoint) -> None:
        self._built.spec(layout, seed, *states)

    def found(self, layout: Layout, permutation: Permutation, *states: Checkpoint) -> None:
        self._built.found(layout, permutation, *states)


def prepare_check(
    pair: Pair,
    device: str,
    progress: Progress,
    *,
    scorer: Scorer | None = None,
    fitting: MatchData | None = None,
    data: DataRequest | None = None,
) -> FunctionCheck:
    """Find a network and inputs for it: those that are judged by, matched by, named by the user, or a folder's own.

    Raises:
        RebasinError: a network or data that were named for this cannot be used.
    """
    named = scorer is not None or fitting is not None or data is not None
    size = max(pair.a.nbytes, pair.b.nbytes)
    if named and size > LARGEST:
        why = f"the checkpoints are of {human_bytes(size)}, and up to {human_bytes(LARGEST)} are compared"
        progress.warn(f"B was not compared before and after: {why}")
        return FunctionCheck(why)
    if named:
        load_torch()
        from rebasin_cli.pipeline.network_check import check_by_named

        found = check_by_named(pair, device, progress, scorer, fitting, data)
        if found is not None:
            return found
    why = _why_no_folder_check(pair.a, size)
    return FunctionCheck(why) if why else _FolderCheck(pair.a, progress)


def runs_network(checkpoint: Checkpoint, data: DataRequest | None) -> bool:
    """Whether a network is run for a checkpoint, which is for one thread of a process at a time.

    Loaders and random numbers change what torch takes for the default everywhere, and user code may do anything.
    """
    return data is not None or not _why_no_folder_check(checkpoint, checkpoint.nbytes)


def _why_no_folder_check(checkpoint: Checkpoint, size: int) -> str:
    """Why the model that config.json names is not run before and after; empty if it is to be built and run."""
    config = checkpoint.config
    if config is None or not config.get("architectures"):
        return NOTHING_AT_HAND
    if size > LARGEST_FOLDER:
        return f"above {human_bytes(LARGEST_FOLDER)} the network is run with --data only"
    if importlib.util.find_spec("transformers") is None:
        return "transformers, which has the network, is not installed"
    return ""


def settled_spec(
    choice: SpecChoice,
    data: DataRequest | None,
    models: Sequence[Checkpoint],
    progress: Progress,
    *,
    permutes: bool = True,
) -> SpecChoice:
    """The choice of the user, with the spec of the network that was named if no shipped one is.

    Args:
        models: the checkpoints of the command; the network is built for the first.
        permutes: whether the function has to be kept; a spec that fits is enough where nothing is permuted.

    Raises:
        RebasinError: the network cannot be used, or no spec for it can be proved.
    """
    if choice.arch is not None or data is None or data.network is None:
        return choice
    why = _misfit(choice, data if permutes else None, models, progress)
    if not why and not permutes:
        return choice
    from rebasin_cli.pipeline.derive import spec_of_network, warn_if_larger

    if not why:
        (pair,) = bind_models((models[0], models[0]), choice)
        warn_if_larger(data, models[0], pair.layout, progress)
        return choice

    progress.detail(f"no shipped spec is that of {data.network}: {why}")

    def named(spec: SpecChoice) -> SpecChoice:
        return replace(choice, arch=spec.arch, text=spec.text)

    def fits(spec: SpecChoice) -> bool:
        return not _misfit(named(spec), data, models, progress)

    return named(spec_of_network(data, models[0], progress, fits))


def spec_of_permutation(saved: SavedPermutation, choice: SpecChoice) -> SpecChoice:
    """The choice with the spec that a permutation file holds; a shipped one is found as always."""
    if not saved.spec_text:
        return choice
    return replace(choice, arch=f"{saved.path}:{saved.spec_name}.yaml", text=saved.spec_text)


def _misfit(choice: SpecChoice, data: DataRequest | None, models: Sequence[Checkpoint], progress: Progress) -> str:
    """Why a spec is not the network's; empty if it fits the first checkpoint and keeps the function."""
    first = models[0]
    try:
        (pair,) = bind_models((first, first), choice)
    except ContentError as error:
        return error.what.partition("\n")[0]
    if data is None:
        return ""
    try:
        prepare_check(pair, "cpu", progress, data=data).spec(pair.layout, 0, first)
    except AnotherFunctionError as error:
        return error.what
    except RebasinError:  # data or network that cannot be used: said where they are
        return ""
    return ""
