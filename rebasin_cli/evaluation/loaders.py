"""Examples from a user's own function: `--data package.module:loader`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.data import Dataset, Split, as_dataset
from rebasin_cli.evaluation.named import call_named, import_named

HELP = "a function that returns (inputs, targets), or batches of such pairs; it may take `split` and `limit`"


def load_named(reference: str, split: Split, limit: int | None) -> Dataset:
    """Import `package.module:loader`, call it, and put together what it returns.

    Raises:
        UsageError: it cannot be imported.
        ContentError: it fails, or does not return examples.
    """
    loader = import_named("--data", reference, HELP)
    takes = inspect.signature(loader).parameters
    given = {name: value for name, value in (("split", split), ("limit", limit)) if name in takes}
    made = call_named("--data", reference, loader, **given)
    if isinstance(made, (tuple, list)) and len(made) == 2 and not isinstance(made[0], (tuple, list)):
        batches: Iterable[Any] = [made]
    elif isinstance(made, Iterable):
        batches = made
    else:
        raise ContentError(f"--data {reference}: the loader returned {type(made).__name__}", remedy=HELP)
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    for batch in batches:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise ContentError(f"--data {reference}: a batch is a {type(batch).__name__}, not a pair", remedy=HELP)
        inputs.append(_tensor(batch[0], reference))
        targets.append(_tensor(batch[1], reference))
        if limit is not None and sum(map(len, targets)) >= limit:
            break
    if not inputs:
        raise ContentError(f"--data {reference}: the loader returned no examples", remedy=HELP)
    takes_split = split if "split" in takes else None
    return as_dataset(torch.cat(inputs), torch.cat(targets), f"{reference}", takes_split, limit, tokens=True)


def _tensor(value: Any, reference: str) -> Tensor:
    if isinstance(value, (np.ndarray, list, np.generic)):
        value = torch.as_tensor(np.asarray(value))
    if not isinstance(value, Tensor):
        raise ContentError(f"--data {reference}: a batch holds {type(value).__name__}, no array", remedy=HELP)
    return value.detach().cpu()
