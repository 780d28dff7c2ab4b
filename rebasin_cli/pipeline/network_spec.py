"""The spec of a network that the user named: a shipped one if it keeps the function, or else derived from the code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import ContentError, RebasinError
from rebasin_cli.permutation.files import SavedPermutation
from rebasin_cli.pipeline.choices import SpecChoice
from rebasin_cli.pipeline.layouts import bind_models
from rebasin_cli.pipeline.progress import Progress

if TYPE_CHECKING:  # what loads data imports networks
    from rebasin_cli.pipeline.data_request import DataRequest


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
    if not why:
        return choice
    from rebasin_cli.pipeline.derive import spec_of_network

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
    from rebasin_cli.pipeline.function_check import AnotherFunctionError, prepare_check

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
