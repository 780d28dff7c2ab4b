"""Networks of Flax and Keras, and arrays by name: aligned by a spec of their own names, as they lie, to safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import msgpack
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.cli.conftest import Rebasin

Arrays = Mapping[str, np.ndarray[Any, Any]]

SPEC = """
name: own
title: convolution and dense layers, (height, width, in, out) and (in, out)
tensors:
  Conv_0.kernel: _ _ _ c
  Conv_0.bias: c
  Dense_0.kernel: (9 c) h
  Dense_0.bias: h
  Dense_1.kernel: h _
  Dense_1.bias: _
"""


def network(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    made = np.random.default_rng(seed)
    shapes = {"Conv_0": (3, 3, 2, 8), "Dense_0": (72, 16), "Dense_1": (16, 4)}
    found = {}
    for layer, shape in shapes.items():
        found[f"{layer}.kernel"] = made.standard_normal(shape).astype("f4")
        found[f"{layer}.bias"] = made.standard_normal(shape[-1]).astype("f4")
    return found


def reordered(arrays: Arrays, c: np.ndarray[Any, Any], h: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The same function, units in another order."""
    dense = arrays["Dense_0.kernel"].reshape(9, 8, 16)[:, c][:, :, h].reshape(72, 16)
    return {
        **arrays,
        "Conv_0.kernel": arrays["Conv_0.kernel"][..., c], "Conv_0.bias": arrays["Conv_0.bias"][c],
        "Dense_0.kernel": dense, "Dense_0.bias": arrays["Dense_0.bias"][h],
        "Dense_1.kernel": arrays["Dense_1.kernel"][h],
    }  # fmt: skip


def _npz(path: Path, arrays: Arrays) -> None:
    np.savez_compressed(path, **arrays)


def _msgpack(path: Path, arrays: Arrays) -> None:
    tree: dict[str, dict[str, msgpack.ExtType]] = {}
    for name, array in arrays.items():
        layer, part = name.split(".")
        packed = msgpack.packb((array.shape, array.dtype.name, array.tobytes()))
        tree.setdefault(layer, {})[part] = msgpack.ExtType(1, packed)
    path.write_bytes(msgpack.packb({"params": tree, "step": 3}))


def _h5(path: Path, arrays: Arrays) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name.replace(".", "/")] = array


@pytest.mark.parametrize(
    ("ending", "write", "spelled"),
    [
        (".npz", _npz, "{}"),
        (".msgpack", _msgpack, "params.{}"),
        (".h5", _h5, "{}"),
    ],
)
def test_units_are_found_and_nothing_is_transposed(
    ending: str, write: Callable[[Path, Arrays], None], spelled: str, rebasin: Rebasin, workplace: Path
) -> None:
    a, order = network(0), np.random.default_rng(1)
    b = reordered(a, order.permutation(8), order.permutation(16))
    write(workplace / f"a{ending}", a)
    write(workplace / f"b{ending}", b)
    slashes = ending == ".h5"
    (workplace / "own.yaml").write_text(
        SPEC.replace(".kernel", "/kernel").replace(".bias", "/bias") if slashes else SPEC
    )
    done = rebasin("align", f"a{ending}", f"b{ending}", "--arch", "own.yaml")
    assert done.code == 0, done.err
    assert done.document["distance"]["cosine_after"] == pytest.approx(1)
    found = load_file(workplace / "b.aligned.safetensors")
    names = {spelled.format(name.replace(".", "/") if slashes else name): array for name, array in a.items()}
    assert found.keys() == names.keys()
    for name, array in names.items():
        assert found[name].tobytes() == array.tobytes(), name
    again = rebasin("apply", "b.permutation.safetensors", f"b{ending}", "-o", f"x{ending}")
    assert again.code == 2
    assert "checkpoints are written as safetensors" in again.err
    assert rebasin("inspect", "b.aligned.safetensors", "--arch", "own.yaml").code == 0
