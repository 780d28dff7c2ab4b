"""Small networks and data on disk, and the program as a process: what the tests of the front rooms share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.forked import run_forked

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"
WIDTHS = (32, 8, 8, 16)  # wide ends: matching then finds a planted permutation from any start

READER = """
import json
import numpy as np

def read(path):
    # dtypes and float64 values by key, without the seconds that torch takes to load
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        held = file.read()
    header.pop("__metadata__", None)
    dtypes, values = {}, {}
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        dtypes[key] = entry["dtype"]
        if entry["dtype"] == "BF16":  # the upper half of a float32
            found = (np.frombuffer(held[begin:end], "<u2").astype("<u4") << 16).view("<f4")
        else:
            found = np.frombuffer(held[begin:end], {"F32": "<f4", "I64": "<i8"}[entry["dtype"]])
        values[key] = found.reshape(entry["shape"]).astype(float)
    return dtypes, values
"""  # how the evaluation commands of tests read a checkpoint


def mlp_state(seed: int, widths: Sequence[int] = WIDTHS, prefix: str = "fc.") -> dict[str, Tensor]:
    """Random weights of a perceptron under the keys `fc.0.weight`, `fc.0.bias`, …"""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for layer, (before, after) in enumerate(pairwise(widths)):
        state[f"{prefix}{layer}.weight"] = torch.randn(after, before, generator=generator)
        state[f"{prefix}{layer}.bias"] = torch.randn(after, generator=generator)
    return state


def shuffled(state: Mapping[str, Tensor], seed: int, layers: int = 3, prefix: str = "fc.") -> dict[str, Tensor]:
    """The same function with the hidden units in another order, written without any of our code."""
    generator = torch.Generator().manual_seed(seed)
    result = dict(state)
    for layer in range(layers - 1):
        order = torch.randperm(len(result[f"{prefix}{layer}.bias"]), generator=generator)
        result[f"{prefix}{layer}.weight"] = result[f"{prefix}{layer}.weight"][order].contiguous()
        result[f"{prefix}{layer}.bias"] = result[f"{prefix}{layer}.bias"][order].contiguous()
        after = f"{prefix}{layer + 1}.weight"
        result[after] = result[after][:, order].contiguous()
    return result


def save(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write a safetensors file with the format's own library."""
    save_file(dict(state), path, dict(metadata) if metadata else None)
    return path


def save_data(path: Path, examples: int = 40, features: int = WIDTHS[0], classes: int = WIDTHS[-1]) -> Path:
    """Random inputs and labels, every class about equally often."""
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((examples, features)).astype(np.float32)
    np.savez(path, inputs=inputs, targets=np.arange(examples) % classes)
    return path


def save_pair(folder: Path) -> tuple[Path, Path, Path]:
    """A, a shuffled A as B (metadata included), and data whose labels are A's own answers."""
    state = mlp_state(0)
    a = save(folder / "a.safetensors", state)
    b = save(folder / "b.safetensors", shuffled(state, 1), {"note": "B's own"})
    inputs = np.random.default_rng(0).standard_normal((60, WIDTHS[0])).astype(np.float32)
    hidden = torch.from_numpy(inputs)
    for layer in range(3):
        hidden = hidden @ state[f"fc.{layer}.weight"].T + state[f"fc.{layer}.bias"]
        hidden = hidden.relu() if layer < 2 else hidden
    np.savez(folder / "data.npz", inputs=inputs, targets=hidden.argmax(1).numpy())
    return a, b, folder / "data.npz"


def command(*arguments: object) -> list[str]:
    """The program's command line."""
    return [sys.executable, "-m", "rebasin_cli", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """The surroundings of a process of ours: the source tree, one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def hear_hangups() -> None:
    """For `preexec_fn` of a process that gets SIGHUP: the tests may run under nohup, and would hand that on."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def run(*arguments: object, cwd: Path, stdin: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program as a process of its own, with pipes, to its end.

    It is forked from one that has loaded the libraries; with variables of its own (`more`) it loads them itself.
    """
    called = command(*arguments)
    if more:
        return subprocess.run(
            called, cwd=cwd, input=stdin, capture_output=True, env=environment(**more), timeout=300, check=False
        )
    pipes = [os.pipe() for _ in range(3)]
    (read_in, write_in), (read_out, write_out), (read_err, write_err) = pipes
    with ThreadPoolExecutor(3) as threads:
        threads.submit(_write_all, write_in, stdin)
        out, err = threads.submit(_read_all, read_out), threads.submit(_read_all, read_err)
        try:
            theirs = (read_in, write_out, write_err)
            code = run_forked([str(word) for word in arguments], cwd, environment(), theirs, 300)
        finally:
            for end in theirs:
                os.close(end)
    return subprocess.CompletedProcess(called, code, out.result(), err.result())


def _write_all(descriptor: int, data: bytes) -> None:
    with suppress(BrokenPipeError), open(descriptor, "wb") as file:
        file.write(data)


def _read_all(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()
