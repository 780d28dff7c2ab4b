"""What is timed: networks by shapes alone, and weights made for them from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rebasin_cli.permutation.gather import permuted
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import Layout, Request, bind, find_spec, load_spec

Shapes = dict[str, tuple[int, ...]]
Weights = Literal["tuned", "planted", "faint", "independent"]

NOISE: Mapping[Weights, float] = {"tuned": 0.1, "planted": 1.0, "faint": 3.0}
"""B is A permuted, plus noise of so many times each tensor's own scale (a cosine of 0.995 as of copies that were
tuned further, 0.71, 0.32); independent weights are all noise."""

MLP_ONLY = """
tensors:
  h.{i}.up.weight: _ mlp.{i}
  h.{i}.up.bias: mlp.{i}
  h.{i}.down.weight: mlp.{i} _
"""
GATED_MLP = """
tensors:
  "{gate,up}.weight": mlp _
  down.weight: _ mlp
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One network.

    Attributes:
        spec: name of a shipped spec, or the text of one.
        dtype: as it is stored.
        config: what its config.json would say.
        slow: takes more than a minute, or gigabytes of memory or disk; run only when named, or with --all.
        command: nothing to compare with: the whole `rebasin align` is timed, from files to files.
        goal: how many times as fast as the paper's loop matching has to be.
        memory: what the peak of the whole command has to stay under, in bytes.
    """

    shapes: Callable[[], Shapes]
    spec: str
    dtype: torch.dtype = torch.float32
    config: Mapping[str, Any] | None = None
    slow: bool = False
    command: bool = False
    goal: float | None = None
    memory: int | None = None

    def layout(self, folder: Path) -> Layout:
        """The spec bound to the shapes."""
        path = folder / "case.yaml"
        if "\n" in self.spec:
            path.write_text(self.spec)
        spec = load_spec(path) if "\n" in self.spec else find_spec(self.spec)
        return bind(spec, self.shapes(), Request(self.config))


def make_weights(case: Case, layout: Layout, weights: Weights) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """A, and B lazily: independent of it, or A's units in a random order plus more or less noise."""
    shapes = case.shapes()
    a = _Random(shapes, case.dtype, seed=1)
    if weights == "independent":
        return a, _Random(shapes, case.dtype, seed=2)
    clean, noise = permuted(Permutation.random(layout, 3), layout, a), _Random(shapes, case.dtype, seed=4)
    return a, _Noisy(clean, noise, NOISE[weights])


class _Random(Mapping[str, Tensor]):
    """Tensors as a fresh network has them: scaled by what they sum over; norms around one."""

    def __init__(self, shapes: Shapes, dtype: torch.dtype, seed: int) -> None:
        self._shapes, self._dtype, self._seed = shapes, dtype, seed
        self._places = {key: place for place, key in enumerate(shapes)}

    def __getitem__(self, key: str) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self._places[key] + self._seed)
        shape = self._shapes[key]
        noise = torch.randn(shape, generator=generator)
        if len(shape) < 2:
            return (0.1 * noise + float(key.endswith("weight"))).to(self._dtype)
        return (noise * (2 * shape[0] / noise.numel()) ** 0.5).to(self._dtype)

    def __iter__(self) -> Any:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class _Noisy(Mapping[str, Tensor]):
    def __init__(self, clean: Mapping[str, Tensor], noise: Mapping[str, Tensor], times: float) -> None:
        self._clean, self._noise, self._times = clean, noise, times

    def __getitem__(self, key: str) -> Tensor:
        return self._clean[key] + self._times * self._noise[key]

    def __iter__(self) -> Any:
        return iter(self._clean)

    def __len__(self) -> int:
        return len(self._clean)


def _chain(*widths: int) -> Shapes:
    shapes: Shapes = {}
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        shapes |= {f"fc{i}.weight": (outputs, inputs), f"fc{i}.bias": (outputs,)}
    return shapes


def _norm(name: str, n: int) -> Shapes:
    return {f"{name}.weight": (n,), f"{name}.bias": (n,)}


def _vgg16() -> Shapes:
    shapes: Shapes = {}
    before = 3
    for place, width in enumerate((64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)):
        shapes |= {f"features.{3 * place}.weight": (width, before, 3, 3), f"features.{3 * place}.bias": (width,)}
        shapes |= _norm(f"features.{3 * place + 1}", width)
        before = width
    return shapes | {"classifier.weight": (10, 512), "classifier.bias": (10,)}


def _resnet20(wide: int) -> Shapes:
    shapes: Shapes = {"conv1.weight": (16 * wide, 3, 3, 3), **_norm("norm1", 16 * wide)}
    before = 16 * wide
    for stage in (1, 2, 3):
        width = 16 * wide * 2 ** (stage - 1)
        for block in range(3):
            name = f"layer{stage}.{block}"
            shapes |= {f"{name}.conv1.weight": (width, before, 3, 3), **_norm(f"{name}.norm1", width)}
            shapes |= {f"{name}.conv2.weight": (width, width, 3, 3), **_norm(f"{name}.norm2", width)}
            if before != width:
                shapes |= {f"{name}.shortcut.0.weight": (width, before, 1, 1), **_norm(f"{name}.shortcut.1", width)}
            before = width
    return shapes | {"linear.weight": (10, before), "linear.bias": (10,)}


def _batch_norm(name: str, n: int) -> Shapes:
    return {**_norm(name, n), f"{name}.running_mean": (n,), f"{name}.running_var": (n,)}


def _resnet50() -> Shapes:
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7), **_batch_norm("bn1", 64)}
    before = 64
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        width = 32 * 2**stage
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            shapes |= {f"{name}.conv1.weight": (width, before, 1, 1), **_batch_norm(f"{name}.bn1", width)}
            shapes |= {f"{name}.conv2.weight": (width, width, 3, 3), **_batch_norm(f"{name}.bn2", width)}
            shapes |= {f"{name}.conv3.weight": (4 * width, width, 1, 1), **_batch_norm(f"{name}.bn3", 4 * width)}
            if block == 0:
                shapes |= {f"{name}.downsample.0.weight": (4 * width, before, 1, 1)}
                shapes |= _batch_norm(f"{name}.downsample.1", 4 * width)
            before = 4 * width
    return shapes | {"fc.weight": (1000, before), "fc.bias": (1000,)}


def _timm(name: str) -> Shapes:
    from rebasin_cli.evaluation.libraries import library

    with torch.device("meta"):
        network = library("timm").create_model(name)
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _gpt2() -> Shapes:
    from rebasin_cli.evaluation.libraries import library

    transformers = library("transformers")
    with torch.device("meta"):
        network = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _gpt2_mlps() -> Shapes:
    shapes: Shapes = {}
    for i in range(12):
        shapes |= {f"h.{i}.up.weight": (768, 3072), f"h.{i}.up.bias": (3072,), f"h.{i}.down.weight": (3072, 768)}
    return shapes


def _gated(embed: int, inner: int) -> Shapes:
    return {"gate.weight": (inner, embed), "up.weight": (inner, embed), "down.weight": (embed, inner)}


def _llama(layers: int, embed: int = 4096, inner: int = 11008, vocabulary: int = 32000) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, embed)}
    for i in range(layers):
        name = f"model.layers.{i}"
        shapes |= {f"{name}.self_attn.{x}_proj.weight": (embed, embed) for x in "qkvo"}
        shapes |= {f"{name}.mlp.{key}": shape for key, shape in _gated_projections(embed, inner).items()}
        shapes |= {f"{name}.{x}_layernorm.weight": (embed,) for x in ("input", "post_attention")}
    return shapes | {"model.norm.weight": (embed,), "lm_head.weight": (vocabulary, embed)}


def _gated_projections(embed: int, inner: int) -> Shapes:
    return {key.replace(".", "_proj."): shape for key, shape in _gated(embed, inner).items()}


def _sd15_unet() -> Shapes:
    from rebasin_cli.evaluation.libraries import library

    with torch.device("meta"):
        unet = library("diffusers").UNet2DConditionModel(cross_attention_dim=768)
    return {key: tuple(tensor.shape) for key, tensor in unet.state_dict().items()}


_LLAMA = {"head_dim": 128, "hidden_size": 4096, "num_attention_heads": 32}

CASES: Mapping[str, Case] = {
    "mlp": Case(lambda: _chain(784, 512, 512, 512, 10), "mlp", goal=4),
    "vgg16": Case(_vgg16, "vgg", goal=12),
    "resnet20": Case(lambda: _resnet20(1), "resnet-basic"),
    "resnet20-x4": Case(lambda: _resnet20(4), "resnet-basic"),
    "resnet20-x16": Case(lambda: _resnet20(16), "resnet-basic", goal=8, slow=True),
    "resnet20-x32": Case(lambda: _resnet20(32), "resnet-basic", goal=8, slow=True),
    "resnet50": Case(_resnet50, "resnet-bottleneck", goal=12),
    "regnetx-002": Case(lambda: _timm("regnetx_002"), "regnet-timm", command=True),
    "gpt2": Case(_gpt2, "gpt2", config={"n_head": 12}, command=True),
    "gpt2-mlps": Case(_gpt2_mlps, MLP_ONLY, goal=5),
    "llama-block": Case(lambda: _gated(4096, 11008), GATED_MLP, goal=5, slow=True),
    "sd15-unet": Case(_sd15_unet, "sd15-unet", torch.float16, slow=True, command=True, memory=6 * 10**9),
    "two-gigabytes": Case(
        lambda: _chain(*[2048] * 65), "mlp", slow=True, command=True, memory=1300 * 10**6
    ),
    **{
        f"llama-7b-{layers}": Case(
            lambda layers=layers: _llama(layers), "llama", torch.bfloat16, _LLAMA, slow=True, command=True,
            memory=4 * 10**9,
        )
        for layers in (1, 2, 4, 8)
    },
}  # fmt: skip
