"""Files for the tests of this folder, made byte by byte: a library would refuse to write most of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rebasin_cli.checkpoints.header import BITS, TensorInfo


def safetensors_bytes(header: Mapping[str, Any] | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def every_dtype_file() -> tuple[bytes, dict[str, TensorInfo]]:
    """Every type of the format with random bytes, each as (2, 4), 0-d where whole bytes allow it, and empty."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "näme": "λ"}}
    infos = {}
    generator = torch.Generator().manual_seed(0)
    data = b""
    for dtype in sorted(BITS, key=lambda name: -BITS[name]):
        for shape in ([2, 4], [], [0, 3]):
            info = TensorInfo(dtype, tuple(shape))
            if info.numel * BITS[dtype] % 8:
                continue
            name = f"{dtype}.{len(shape)}.{info.numel}"
            raw = torch.randint(0, 256, (info.nbytes,), generator=generator).tolist()
            header[name] = entry(dtype, shape, len(data), len(data) + info.nbytes)
            data += bytes(byte & 1 for byte in raw) if dtype == "BOOL" else bytes(raw)
            infos[name] = info
    return safetensors_bytes(header, data), infos


def write_sharded(folder: Path, shards: Mapping[str, Mapping[str, torch.Tensor]]) -> Path:
    """A folder with these shards, their index, a config and a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for name, tensors in shards.items():
        save_file(dict(tensors), folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 1, "more": "kept"}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


def two_shards() -> dict[str, dict[str, torch.Tensor]]:
    return {
        "model-00001-of-00002.safetensors": {"z.weight": torch.randn(4, 3), "b": torch.arange(5)},
        "model-00002-of-00002.safetensors": {"a.weight": torch.randn(2, 2).bfloat16()},
    }


# Root may do everything, so permissions are tried as another user. The process goes into the folder first: it needs
# no permission for the folders above then.
_PRELUDE = """
import ctypes, os, sys  # nobody may not be allowed to read Python's own modules later
from pathlib import Path
def become_nobody_in(folder):
    os.chdir(folder)
    if os.getuid() == 0:
        os.chmod(".", 0o755)
        os.setgid(65534)
        os.setuid(65534)
"""


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process of its own, one thread, with this project importable; see `_PRELUDE`."""
    return subprocess.run(
        [sys.executable, "-c", _PRELUDE + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
