"""Table 1: how many permutations leave a network's function as it is."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import floor, lgamma, log
from pathlib import Path

from tests.paper.lab import Lab
from tests.paper.outcome import Claim, Outcome, verdict

Shapes = Mapping[str, tuple[int, ...]]


def run(lab: Lab) -> Outcome:
    mlp = {f"fc.{i}.weight": shape for i, shape in enumerate([(512, 784), (512, 512), (512, 512), (10, 512)])}
    counts = {
        "mlp": _count(lab, "mlp", mlp | {f"fc.{i}.bias": (n,) for i, n in enumerate((512, 512, 512, 10))}),
        "vgg16": _count(lab, "vgg", _model("vgg16")),
        "resnet50": _count(lab, "resnet-bottleneck", _model("resnet50")),
    }
    alone = sum(floor(lgamma(512 + 1) / log(10)) for _ in range(3))
    figures = (
        f"MLP 10^{counts['mlp']:.0f} (10^{alone} with each layer's power of ten rounded down), "
        f"VGG16 10^{counts['vgg16']:.0f}, ResNet50 10^{counts['resnet50']:.0f}: "
        "every residual stream is one set of units"
    )
    near = abs(counts["mlp"] - 3498) < 3 and abs(counts["vgg16"] - 35160) < 15
    return Outcome(figures, verdict(near and abs(counts["resnet50"] - 55109) < 15, near))


def _model(name: str) -> Shapes:
    import torch

    from rebasin_cli.evaluation.libraries import library

    models = library("torchvision.models")
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in getattr(models, name)().state_dict().items()}


def _count(lab: Lab, spec: str, shapes: Shapes) -> float:
    path = _sparse(lab.scratch(f"{spec}-shapes.safetensors"), shapes)
    found: float = lab.rebasin("arch", "show", spec, path, "--count")["architecture"]["log10_symmetries"]
    return found


def _sparse(path: Path, shapes: Shapes) -> Path:
    """A checkpoint of a hole: only headers are read."""
    header: dict[str, object] = {}
    end = 0
    for key, shape in shapes.items():
        size = 4
        for n in shape:
            size *= n
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


CLAIM = Claim(
    number=1,
    where="Table 1",
    says="Numbers of permutation symmetries",
    paper="MLP 10^3498, VGG16 10^35160, ResNet50 10^55109",
    rule="shown: all three powers within 15; with limits: the first two",
    run=run,
)
