"""Subjects that look at images: a network of torchvision or timm on two small random ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from rebasin_cli.evaluation.libraries import library
from rebasin_cli.proofs.proof import Subject, Trace
from rebasin_cli.proofs.subjects.modules import module_subject, randomise


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
    names = {key: key for key in subject.state}
    for pattern, replacement in replacements.items():
        names = {re.sub(pattern, replacement, name): key for name, key in names.items()}

    def run(state: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        return subject.run({names[key]: tensor for key, tensor in state.items()}, trace)

    state = {name: subject.state[key] for name, key in names.items()}
    return replace(subject, name=f"{subject.name}, other keys", state=state, run=run, network=None)


def on_images(name: str, module: nn.Module, side: int) -> Subject:
    """A module, given random weights, on two random images of `side` × `side`."""
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    return module_subject(name, randomise(module), (images,))
