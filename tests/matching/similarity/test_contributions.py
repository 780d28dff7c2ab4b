"""What units are worth, collected from the tensors that say something of them."""

from __future__ import annotations

import torch

from rebasin_cli.matching.similarity.contributions import Dense, Worth


def test_all_forms_of_a_dim_count() -> None:
    """Those on which a sign does not act by themselves, where signs may be turned."""
    grams = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    free, still = [Dense(gram) for gram in grams[:3]], [Dense(gram, frozenset({"h"})) for gram in grams[3:]]
    for count in (1, 2, 3):
        worth = Worth.of([*free[:count], *still], "h", signed=True)
        assert worth.turning is not None
        assert worth.plain is not None
        torch.testing.assert_close(worth.turning, grams[:count].sum(0))
        torch.testing.assert_close(worth.plain, grams[3:].sum(0))
        unsigned = Worth.of([*free[:count], *still], "h", signed=False)
        assert unsigned.turning is None
        assert unsigned.plain is not None
        torch.testing.assert_close(unsigned.plain, grams[:count].sum(0) + grams[3:].sum(0))
