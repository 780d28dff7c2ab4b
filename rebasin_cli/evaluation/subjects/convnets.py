"""Convolutional networks of torchvision and timm at small input sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

from rebasin_cli.evaluation.proving import Subject
from rebasin_cli.evaluation.subjects.libraries import library
from rebasin_cli.evaluation.subjects.modules import module_subject, randomise


def torchvision_subject(model: str, side: int = 32, **options: object) -> Subject:
    """`torchvision.models.MODEL(num_classes=7, …)` on two random images of `side` × `side`."""
    library("torchvision")
    from torchvision import models

    torch.manual_seed(0)
    module = randomise(getattr(models, model)(num_classes=7, **options))
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    return module_subject(f"torchvision {model}", module, (images,))


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "vgg": (
        partial(torchvision_subject, "vgg11"),
        partial(torchvision_subject, "vgg11_bn"),
        partial(torchvision_subject, "alexnet", 64),
    ),
    "resnet-basic": (partial(torchvision_subject, "resnet18"), partial(torchvision_subject, "resnet34")),
    "resnet-bottleneck": (
        partial(torchvision_subject, "resnet50"),
        partial(torchvision_subject, "resnext50_32x4d"),
        partial(torchvision_subject, "wide_resnet50_2"),
    ),
}
