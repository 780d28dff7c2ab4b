"""torch's own recurrent networks, under the names that people give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects.modules import module_subject, randomise

INPUTS, HIDDEN, TOKENS, OUTPUTS = 7, 10, 20, 5


class Tagger(nn.Module):
    """An embedding or plain inputs, a recurrent network called `name`, and a linear layer called `head`."""

    def __init__(self, kind: str, name: str, head: str, embedding: str, layers: int, both: bool, bias: bool) -> None:
        super().__init__()
        self.names = (name, head, embedding)
        if embedding:
            setattr(self, embedding, nn.Embedding(TOKENS, INPUTS))
        made = getattr(nn, kind)(INPUTS, HIDDEN, layers, bias=bias, bidirectional=both, batch_first=True)
        setattr(self, name, made)
        setattr(self, head, nn.Linear(HIDDEN * (2 if both else 1), OUTPUTS))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T), or features (N, T, inputs), to logits (N, T, outputs)."""
        name, head, embedding = self.names
        if embedding:
            x = getattr(self, embedding)(x)
        logits: Tensor = getattr(self, head)(getattr(self, name)(x)[0])
        return logits


def tagger(
    kind: str, name: str, head: str, *, embedding: str = "", layers: int = 1, both: bool = False, bias: bool = True
) -> Subject:
    """A subject of one of them, on three sequences of nine steps."""
    torch.manual_seed(0)
    module = randomise(Tagger(kind, name, head, embedding, layers, both, bias))
    x = torch.randint(TOKENS, (3, 9)) if embedding else torch.randn(3, 9, INPUTS, dtype=torch.float64)
    traits = [
        f"{layers} layer{'s' if layers > 1 else ''}",
        "bidirectional" if both else "",
        "" if bias else "no biases",
        embedding,
    ]
    return module_subject(f"torch {kind} ({', '.join(t for t in traits if t)})", module, (x,))


def kinds(kind: str, name: str) -> tuple[Callable[[], Subject], ...]:
    """Stacked, bidirectional, without biases, and behind an embedding."""
    return (
        partial(tagger, kind, name, "fc"),
        partial(tagger, kind, "rnn", "decoder", embedding="encoder", layers=3),
        partial(tagger, kind, name, "linear", layers=3, both=True),
        partial(tagger, kind, name, "classifier", embedding="embedding", layers=2, both=True, bias=False),
    )


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "lstm": kinds("LSTM", "lstm"),
    "gru": kinds("GRU", "gru"),
    "rnn": kinds("RNN", "rnn"),
}
