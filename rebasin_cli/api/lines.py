"""`lerp`: a point between two networks as they are."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from rebasin_cli.api.calls import Talk, public
from rebasin_cli.api.models import given_model
from rebasin_cli.errors import ContentError
from rebasin_cli.merging.options import check_lambda
from rebasin_cli.pipeline.inputs import open_source
from rebasin_cli.safe_text import first_names

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_cli.api.models import Model


@public()
def lerp(a: Model, b: Model, lam: float) -> dict[str, Tensor]:
    """(1 − λ)·A + λ·B, tensor by tensor, of two networks as they are: no spec, no match, nothing written.

    Use it where B is aligned already: `lerp(a, found.aligned, 0.5)` is the midpoint of `interpolate(a, b)`.

    Args:
        a, b: modules, state dicts or paths, with the same names and shapes.
        lam: λ, the weight on B, from 0 to 1.

    Returns:
        A new state dict of A's keys, shapes, dtypes and devices. Sums are in float32, in float64 where either is that
        wide, and rounded once. Integers and bools are A's, and B's at λ = 1.

    Raises:
        UsageError: λ is outside of 0 to 1. ContentError: names or shapes differ.

    Example:
        >>> middle = rebasin.lerp(a, b, 0.5)
        >>> torch.equal(middle["fc.0.weight"], torch.lerp(a["fc.0.weight"], b["fc.0.weight"], 0.5))
        True
    """
    talk = Talk()
    check_lambda(lam)
    one, two = given_model("A", a, talk), given_model("B", b, talk)
    from rebasin_cli.merging.interpolation import interpolate_tensor

    with ExitStack() as files:
        first, second = (files.enter_context(open_source(model.source, talk)) for model in (one, two))
        alone = sorted(set(first) ^ set(second))
        if alone:
            side = "A" if alone[0] in first else "B"
            raise ContentError(
                f"A and B have other tensors: {first_names(alone, 3)}", where=f"the first is in {side} alone",
                remedy="compare them with `rebasin inspect`",
            )  # fmt: skip

        def read(key: str) -> Tensor:
            try:
                mixed = interpolate_tensor(first[key], second[key], lam)
            except ContentError as error:
                raise ContentError(error.what, where=key, remedy=error.remedy) from error
            ended = lam == 1.0 and not mixed.is_floating_point() and not mixed.is_complex()
            return second[key].to(mixed.dtype) if ended else mixed

        return one.state(first, read)
