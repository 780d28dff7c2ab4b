"""The search tells rounding from a difference where a network makes much of it."""

from __future__ import annotations

import pytest
import torch

from rebasin_cli.derivation.borrowing import borrowed
from rebasin_cli.derivation.passes import Network
from rebasin_cli.derivation.search import Search
from rebasin_cli.evaluation.libraries import library


@pytest.mark.parametrize("seed", [0, 17])  # in 17 sums in another order differ by more than usual
def test_attention_without_a_scale_leaves_the_stream_movable(seed: int) -> None:
    """Its logits are large, and softmax multiplies what they are rounded by."""
    sizes = {"hidden_size": 24, "intermediate_size": 13, "num_attention_heads": 6, "num_key_value_heads": 3}
    granite = library("transformers").GraniteConfig(**sizes, num_hidden_layers=2, vocab_size=19)
    torch.manual_seed(0)
    model = library("transformers").GraniteForCausalLM(granite)
    tokens = torch.randint(0, 19, (4, 12), generator=torch.Generator().manual_seed(0))
    with borrowed(model):
        found = Search(Network(model, {"input_ids": tokens}), seed).run()
    assert found.complete
    assert not found.still
    assert next(move.units for move in found.moves) == 24
