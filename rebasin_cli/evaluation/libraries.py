"""Importing the libraries of real networks, which are optional and not always friendly."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

import torch

from rebasin_cli.errors import UsageError

_KEPT: list[Any] = []


def library(name: str) -> ModuleType:
    """Import `torchvision`, `timm`, `transformers` or `diffusers`.

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    _make_torchvision_importable()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"the network to prove this spec on comes from `{name}`, which cannot be imported: {error}",
            remedy=f"pip install {name}",
        ) from error


def _make_torchvision_importable() -> None:
    """Define two operators that torchvision registers fakes for, where its compiled half does not fit this torch.

    A CUDA build of torchvision beside a CPU torch fails to import, and takes transformers and timm with it, only
    because `torchvision::nms` does not exist. No network here calls it.
    """
    if _KEPT or "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except (RuntimeError, OSError):
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        operators: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(operators)
        importlib.import_module("torchvision")
