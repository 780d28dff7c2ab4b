"""What figures depend on, without importing any of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from contextlib import suppress
from functools import cache

import rebasin_cli


def versions() -> dict[str, str]:
    """Of the program and of what its figures depend on."""
    found = {"rebasin": rebasin_cli.__version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "scipy", "safetensors"):
        found[package] = importlib.metadata.version(package)
    return found


def machine() -> dict[str, str]:
    """What times depend on: system, processor, cores, threads of torch if that works, Python. Neither host nor user."""
    found = {
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count() or 1),
        "python": platform.python_version(),
    }
    torch = sys.modules.get("torch")
    return found if torch is None else found | {"threads": str(torch.get_num_threads())}


@cache
def _processor() -> str:
    """Its name; Python's own function starts a program to find it, and finds nothing on Linux."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
