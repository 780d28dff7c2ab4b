"""Subjects that look at images: a network of torchvision or timm on two small random ones."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.proofs.proof import Subject
from rebasin_cli.proofs.subjects.modules import module_subject, randomise
from rebasin_cli.proofs.subjects.variants import under_other_keys


def torchvision_subject(model: str, side: int = 32, **options: object) -> Subject:
    """`torchvision.models.MODEL(num_classes=7, …)` on two random images of `side` × `side`."""
    library("torchvision")
    from torchvision import models

    torch.manual_seed(0)
    return on_images(f"torchvision {model}", getattr(models, model)(num_classes=7, **options), side)


def timm_subject(model: str, side: int = 32, **options: object) -> Subject:
    """`timm.create_model(MODEL, num_classes=7, …)` on two random images of `side` × `side`."""
    made = library("timm").create_model
    torch.manual_seed(0)
    return on_images(f"timm {model}", made(model, num_classes=7, **options), side)


def renamed(subject: Subject, replacements: Mapping[str, str]) -> Subject:
    """The same network under other keys: every pattern in them replaced, on disk only."""

    def rename(key: str) -> str:
        for pattern, replacement in replacements.items():
            key = re.sub(pattern, replacement, key)
        return key

    return under_other_keys(subject, f"{subject.name}, other keys", rename)


def on_images(name: str, module: nn.Module, side: int) -> Subject:
    """A module, given random weights, on two random images of `side` × `side`."""
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    return module_subject(name, randomise(module), (images,))
