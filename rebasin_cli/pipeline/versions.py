"""What figures depend on, without importing any of it."""

from __future__ import annotations

import importlib.metadata
import platform

import rebasin_cli


def versions() -> dict[str, str]:
    """Of the program and of what its figures depend on."""
    found = {"rebasin": rebasin_cli.__version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "scipy", "safetensors"):
        found[package] = importlib.metadata.version(package)
    return found
