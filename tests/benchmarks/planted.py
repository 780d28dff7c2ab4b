"""Is a random element of a network's whole group found again? Permutations, signs, scales and rotations, with noise.

    python -m tests.benchmarks.planted [--seeds 5] [--noise 1e-3]
    python -m tests.benchmarks.planted --small 100

Of small real networks B is A with noise of a thousandth of each tensor's size, moved by an element drawn from all the
spec has. `distance` is ‖A − g(B)‖ of what is found, in the form in which networks are compared, as a multiple of that
of the element which undoes the one drawn; it is the worst of all seeds, and 1 is the noise itself. `function` is the
largest change of B's outputs by g(B), as a share of the largest output, with weights in float32.

`--small` plants permutations and signs in so many RMSNorm transformers of two layers, width 24, with noise of 30 per
cent of each tensor, and counts how often exactly they are found.

Of five elements for each of twenty-eight families all are found: the distance is at most that of the planted element,
which is a thousandth of ‖A − B‖, and functions are kept to 9·10⁻⁷. Of the small transformers 100 of 100 are found, in
3 seconds.

    family                what the group has besides permutations    worst distance    function
    GPT-2                 rotations                                        0.94         4e-07
    GPT-NeoX              rotations                                        0.95         2e-07
    LLaMA                 signs, scales, rotations                         0.97         6e-07
    Qwen3                 signs, scales, rotations                         0.97         7e-07
    Mixtral               signs, scales, rotations                         0.99         9e-07
    OLMo 2                signs, scales, rotations                         0.99         2e-07
    Phi                   rotations                                        0.98         2e-07
    ViT (timm)            rotations                                        0.91         3e-08
    ViT (transformers)    rotations                                        0.98         1e-07
    BERT                  rotations                                        0.98         8e-08
    T5's encoder          rotations                                        1.00         2e-07
    T5 v1.1               rotations                                        0.93         6e-07
    BART                  rotations                                        0.96         3e-07
    Whisper               rotations                                        0.97         7e-08
    DeBERTa V2            rotations                                        0.98         4e-07
    ALBERT                rotations                                        0.97         2e-07
    LLaVA                 signs, scales, rotations                         0.97         4e-07
    Falcon-Mamba          signs, rotations                                 0.99         4e-07
    Swin                  rotations                                        1.00         2e-09
    CaiT                  rotations                                        0.99         7e-08
    Flux                  rotations                                        1.00         3e-08
    SD's autoencoder      rotations                                        0.98         2e-08
    MLP, tanh             signs                                            1.00         0
    MLP, ReLU             scales                                           0.98         4e-08
    VGG                   scales                                           1.00         7e-08
    ResNet, BatchNorm     scales                                           0.93         2e-07
    ResNet, LayerNorm     scales                                           0.94         8e-08
    LSTM                                                                   1.00         0
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from time import process_time

import torch
from torch import Tensor, nn

from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.objective import measure_distance
from rebasin_cli.matching.problem import Problem
from rebasin_cli.matching.scales import in_balance
from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.pipeline.method_choice import match_choice
from rebasin_cli.pipeline.methods import Running, match_states
from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects import SUBJECTS
from rebasin_cli.proofs.subjects.classic_decoders import gpt2
from rebasin_cli.proofs.subjects.modules import module_subject, randomise
from rebasin_cli.spec import Layout, Request, bind, find_spec, shipped_spec
from rebasin_cli.spec.language.loading import parse_spec
from rebasin_cli.spec.language.permutation_spec import PermutationSpec

NOISE = 1e-3

TANH = """
name: tanh-mlp
signs:
  - h.{i}
dims:
  h.{last i}: fixed because these are the outputs
tensors:
  "{i}.weight": h.{i} h.{prev i}
  "{i}.bias": h.{i}
"""
"""A perceptron with tanh: what follows a layer is no part of its keys, so that no shipped spec has these signs."""

State = Mapping[str, Tensor]


def tanh_perceptron() -> Subject:
    """Three layers."""
    torch.manual_seed(0)
    layers = [part for ins, outs in pairwise((11, 16, 12, 5)) for part in (nn.Linear(ins, outs), nn.Tanh())]
    module = randomise(nn.Sequential(*layers[:-1]))
    return module_subject("MLP (tanh)", module, (torch.randn(4, 11, dtype=torch.float64),))


def _shipped(name: str, at: int = 0) -> tuple[Callable[[], PermutationSpec], Callable[[], Subject]]:
    return partial(shipped_spec, name), SUBJECTS[name][at]


FAMILIES: Mapping[str, tuple[Callable[[], PermutationSpec], Callable[[], Subject]]] = {
    "GPT-2": (partial(shipped_spec, "gpt2"), partial(gpt2, tie_word_embeddings=False)),
    "GPT-NeoX": _shipped("gpt-neox"),
    "LLaMA": _shipped("llama"),
    "Qwen3": _shipped("qwen3"),
    "Mixtral": _shipped("mixtral"),
    "OLMo 2": _shipped("olmo2"),
    "Phi": _shipped("phi"),
    "ViT (timm)": _shipped("vit"),
    "ViT (transformers)": _shipped("vit-hf"),
    "BERT": _shipped("bert"),
    "T5's encoder": _shipped("t5-encoder"),
    "T5 v1.1": _shipped("t5", 1),
    "BART": _shipped("bart"),
    "Whisper": _shipped("whisper"),
    "DeBERTa V2": _shipped("deberta-v2"),
    "ALBERT": _shipped("albert", 3),
    "LLaVA": _shipped("llava"),
    "Falcon-Mamba": _shipped("mamba", 2),
    "Swin": _shipped("swin"),
    "CaiT": _shipped("cait"),
    "Flux": _shipped("flux"),
    "SD's autoencoder": _shipped("sd-vae"),
    "MLP, tanh": (partial(parse_spec, TANH, "tanh.yaml"), tanh_perceptron),
    "MLP, ReLU": _shipped("mlp"),
    "VGG": _shipped("vgg"),
    "ResNet, BatchNorm": _shipped("resnet-basic"),
    "ResNet, LayerNorm": _shipped("resnet-basic", 4),
    "LSTM": _shipped("lstm"),
}


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was found of a planted element.

    Attributes:
        group: the kinds that the layout has; before: ‖A − B‖, after: ‖A − g(B)‖, planted: the same of the element that
            undoes the one drawn, between the same forms.
        function: the largest change of an output by g, of weights in float32, as a share of the largest output.
    """

    group: tuple[str, ...]
    before: float
    after: float
    planted: float
    function: float


def whole_layout(spec: PermutationSpec, subject: Subject) -> Layout:
    """With all that the spec has."""
    shapes = {key: tuple(tensor.shape) for key, tensor in subject.state.items()}
    request = Request(subject.config, overrides=subject.overrides, signs=True, scales=True, rotations=True)
    return bind(spec, shapes, request)


def with_noise(layout: Layout, state: State, noise: float, seed: int) -> State:
    """Each tensor with noise of so much of its own size; buffers and what is ignored as they are."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        key: torch.randn(state[key].shape, generator=generator, dtype=torch.float64)
        for key, bound in layout.tensors.items()
        if bound.section == "tensors"
    }
    return {**state, **{key: state[key] + noise * state[key].square().mean().sqrt() * drawn[key] for key in drawn}}


def recover(layout: Layout, subject: Subject, seed: int, noise: float = NOISE) -> Recovery:
    """Plant an element, match as `align --symmetry all` does, and look at what was found."""
    a = subject.state
    drawn = Permutation.random(layout, seed)
    b = dict(permuted(drawn, layout, with_noise(layout, a, noise, seed)))
    found = match_states(layout, a, b, match_choice(), Running("cpu", lambda: None, lambda *_: None)).permutation
    distance, undone = (
        measure_distance(layout, *_between(layout, element, a, b)) for element in (found, drawn.inverse(layout))
    )
    has = {"signs": layout.signed(), "scales": layout.scaled(), "rotations": layout.rotated()}
    group = ("permutations", *(kind for kind, dims in has.items() if dims))
    narrow = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in b.items()}
    function = _change(subject, narrow, dict(permuted(found, layout, narrow)))
    return Recovery(group, distance.before, distance.after, undone.after, function)


def _between(layout: Layout, element: Permutation, a: State, b: State) -> tuple[State, State, Permutation]:
    one, two, between = in_balance(layout, element, a, b)
    return one, two, between


def _change(subject: Subject, one: State, two: State) -> float:
    types = subject.state
    before, after = (
        subject.run({key: tensor.to(types[key].dtype) for key, tensor in state.items()}, None) for state in (one, two)
    )
    return max(float((after[key] - out).abs().max() / out.abs().max()) for key, out in before.items())


def small_transformers(count: int) -> Iterator[bool]:
    """Whether what was planted in a small RMSNorm transformer, of random weights each, is exactly what is found."""
    width, inner, keys = 24, 40, 12
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (50, width), "norm.weight": (width,)}
    for i in range(2):
        shapes |= {
            f"layers.{i}.input_layernorm.weight": (width,), f"layers.{i}.post_attention_layernorm.weight": (width,),
            f"layers.{i}.self_attn.q_proj.weight": (width, width), f"layers.{i}.self_attn.k_proj.weight": (keys, width),
            f"layers.{i}.self_attn.v_proj.weight": (keys, width), f"layers.{i}.self_attn.o_proj.weight": (width, width),
            f"layers.{i}.mlp.gate_proj.weight": (inner, width), f"layers.{i}.mlp.up_proj.weight": (inner, width),
            f"layers.{i}.mlp.down_proj.weight": (width, inner),
        }  # fmt: skip
    layout = bind(find_spec("llama"), shapes, Request(overrides={"head_dim": 6}, signs=True))
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        a = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        a = {key: 1 + 0.1 * tensor if tensor.dim() == 1 else 0.02 * tensor for key, tensor in a.items()}
        planted = Permutation.random(layout, 1000 + seed)
        b = {
            key: tensor + 0.3 * tensor.std() * torch.randn(tensor.shape, generator=generator)
            for key, tensor in permuted(planted, layout, a).items()
        }
        yield match_by_weights(Problem(layout, a, b)).permutation.equals(planted.inverse(layout))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--noise", type=float, default=NOISE)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--small", type=int, default=0, help="so many small RMSNorm transformers instead")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.small:
        found = list(small_transformers(given.small))
        print(f"{sum(found)} of {len(found)}")
        return
    for name in given.families:
        spec, make = FAMILIES[name]
        began, subject = process_time(), make()
        layout = whole_layout(spec(), subject)
        rows = [recover(layout, subject, seed, given.noise) for seed in range(given.seeds)]
        distance = max(row.after / row.planted for row in rows)
        before = max(row.before / row.planted for row in rows)
        change = max(row.function for row in rows)
        print(
            f"{name:20}{', '.join(rows[0].group):44} before {before:8.1f}  distance {distance:9.4f}  "
            f"function {change:.1e}  {process_time() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
