"""Examples from a user's own function: `--data package.module:loader`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.data import Dataset, as_dataset, unanswered
from rebasin_cli.evaluation.given import GivenData
from rebasin_cli.evaluation.inputs import Inputs, joined
from rebasin_cli.evaluation.options import Split
from rebasin_cli.evaluation.user_code import call_named, import_named

HELP = (
    "a function that returns (inputs, targets), or batches of such pairs; several inputs are a tuple or dict: "
    "((one, two), targets); it may take `split` and `limit`"
)


def load_named(reference: str, split: Split, limit: int | None, *, labels: bool = True) -> Dataset:
    """Import `package.module:loader`, call it, and put together what it returns.

    Args:
        labels: False takes a tensor of inputs alone, too.

    Raises:
        UsageError: it cannot be imported.
        ContentError: it fails, or does not return examples.
    """
    loader = import_named("--data", reference, HELP)
    takes = inspect.signature(loader).parameters
    given = {name: value for name, value in (("split", split), ("limit", limit)) if name in takes}
    made = call_named("--data", reference, loader, **given)
    return _put_together(made, reference, split if "split" in takes else None, limit, labels)


def load_given(data: GivenData, limit: int | None, *, labels: bool = True) -> Dataset:
    """Put together examples that are in memory: (inputs, targets), or batches of such pairs.

    Args:
        labels: see `load_data`.

    Raises:
        ContentError: they are none.
    """
    return _put_together(data.examples, data.name, None, limit, labels)


def _put_together(made: Any, reference: str, split: Split | None, limit: int | None, labels: bool) -> Dataset:
    if not labels and isinstance(made, (Tensor, np.ndarray)):
        made = (made, unanswered(_tensor(made, reference)))
    if _is_pair(made):
        batches: Iterable[Any] = [made]
    elif isinstance(made, Iterable) and not isinstance(made, (Mapping, Tensor, np.ndarray)):
        batches = made
    else:
        raise ContentError(f"--data {reference}: the loader returned {type(made).__name__}", remedy=HELP)
    inputs: list[Inputs] = []
    targets: list[Tensor] = []
    for batch in batches:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            what = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else f"a {type(batch).__name__}"
            raise ContentError(f"--data {reference}: a batch is {what}, not a pair", remedy=HELP)
        inputs.append(_inputs(batch[0], reference))
        targets.append(_tensor(batch[1], reference))
        if limit is not None and sum(map(len, targets)) >= limit:
            break
    if not inputs:
        raise ContentError(f"--data {reference}: the loader returned no examples", remedy=HELP)
    return as_dataset(*_joined(inputs, targets, reference), reference, split, limit)


def _is_pair(made: Any) -> bool:
    """Whether a loader returned all examples at once, (inputs, targets), and no batches of them."""
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        return False
    return any(isinstance(part, (Tensor, np.ndarray, Mapping)) for part in made)


def _inputs(value: Any, reference: str) -> Inputs:
    """One tensor, or several: a tuple, list or mapping of them; nested lists of numbers are one."""
    if isinstance(value, Mapping):
        return {str(name): _inputs(part, reference) for name, part in value.items()}
    if isinstance(value, (tuple, list)) and any(_holds_arrays(part) for part in value):
        return tuple(_inputs(part, reference) for part in value)
    return _tensor(value, reference)


def _holds_arrays(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_holds_arrays(part) for part in value)
    return isinstance(value, (Tensor, np.ndarray, Mapping))


def _joined(inputs: list[Inputs], targets: list[Tensor], reference: str) -> tuple[Inputs, Tensor]:
    try:
        return joined(inputs), torch.cat(targets)
    except (ValueError, RuntimeError) as error:
        raise ContentError(
            f"--data {reference}: the batches cannot be put together: {error}",
            remedy="all batches have the same tensors, and those the same shapes but for the number of examples",
        ) from error


def _tensor(value: Any, reference: str) -> Tensor:
    if isinstance(value, (np.ndarray, list, tuple, np.generic)):
        try:
            value = torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ContentError(
                f"--data {reference}: a batch holds a {type(value).__name__} that is no array: {error}", remedy=HELP
            ) from error
    if not isinstance(value, Tensor):
        raise ContentError(f"--data {reference}: a batch holds {type(value).__name__}, no array", remedy=HELP)
    return value.detach().cpu() if value.dim() else value.detach().cpu().reshape(1)
