"""How long it takes to derive a spec: passes, and processor time of one thread.

python -m tests.benchmarks derivation            every network of the tests, and a LLaMA where transformers is there
python -m tests.benchmarks derivation mixture    some of them
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from time import process_time

import torch
from torch import nn

from rebasin_cli.derivation.derive import derive
from tests.derivation.networks import Made, tokens
from tests.derivation.test_derive import NETWORKS

LLAMA = "llama"


def llama() -> Made:
    """transformers' LLaMA of two layers: six heads that share three keys and values."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "vocab_size": 17}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 3}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads)), {"input_ids": tokens(17, 9)}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks derivation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("networks", nargs="*", default=[*NETWORKS, LLAMA], help="by name; all of them if none is given")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{'network':34}{'parameters':>11}{'dims':>6}{'passes':>8}{'seconds':>9}")
    for name in options.networks:
        torch.manual_seed(0)
        try:
            module, inputs = llama() if name == LLAMA else NETWORKS[name]()
        except ImportError:
            print(f"{name:34} transformers cannot be imported")
            continue
        print(_row(name, module, inputs), flush=True)


def _row(name: str, module: nn.Module, inputs: object) -> str:
    start = process_time()
    found = derive(module, inputs, name)
    took, count = process_time() - start, sum(p.numel() for p in module.parameters())
    return f"{name:34}{count:11,}{len(found.proof.layout.moving()):6}{found.passes:8}{took:9.2f}"
