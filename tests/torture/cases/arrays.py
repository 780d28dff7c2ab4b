"""Arrays by name as other worlds write them, as checkpoints: NumPy's archives, Flax's msgpack, Keras's HDF5."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import msgpack
import numpy as np

from tests.small import mlp_state
from tests.torture.cases import NAMES, Case, of_bytes
from tests.torture.cases.data import hostile_archives

_CHUNKED = "__msgpack_chunked_array__"
_SIZES = (-1, 0, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), 8.0, None, "8", True, [8], {})
_TYPES = (
    "float32 ", "f4", "O", "object", "bfloat16", "V2", "S4", "complex64", "complex256", "", "x" * 5000, "\x1b[31m",
    7, None,
)  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    for at, data in enumerate(hostile_archives()):
        yield of_bytes(f"arrays/npz-{at}", "checkpoint", "x.npz", data)
    for at, data in enumerate(_flax()):
        yield of_bytes(f"arrays/flax-{at}", "checkpoint", "x.msgpack", data)
    for at, make in enumerate(_hdf5()):
        yield Case(f"arrays/hdf5-{at}", "checkpoint", "x.h5", partial(_write, make))


def honest() -> dict[str, np.ndarray[Any, Any]]:
    """The network that the hostile ones are made from."""
    return {key: tensor.numpy() for key, tensor in mlp_state(1).items()}


def flax_bytes(state: dict[str, np.ndarray[Any, Any]]) -> bytes:
    """A network as Flax writes it."""
    return _packed({key: _array(value) for key, value in state.items()})


def write_hdf5(path: Path, state: dict[str, np.ndarray[Any, Any]]) -> None:
    """A network as HDF5."""
    with h5py.File(path, "w") as file:
        for key, value in state.items():
            file[key.replace(".", "/")] = value


def _packed(value: object) -> bytes:
    return bytes(msgpack.packb(value, use_bin_type=True, strict_types=True))


def _array(value: np.ndarray[Any, Any]) -> msgpack.ExtType:
    return _extension([list(value.shape), value.dtype.name, value.tobytes()])


def _extension(content: object, kind: int = 1) -> msgpack.ExtType:
    return msgpack.ExtType(kind, _packed(content))


def _flax() -> Iterator[bytes]:
    state = {key: _array(value) for key, value in honest().items()}
    whole, weight = _packed(state), next(iter(honest().values()))
    shape, dtype, data = list(weight.shape), weight.dtype.name, weight.tobytes()
    first = next(iter(state))
    yield from (b"", b"\x80", b"\xc0", b"\xc1", whole + b"\x00", whole[:-1], whole * 2, whole[1:])
    yield from (b"\x81" * depth + b"\xc0" for depth in (64, 65, 1000, 100_000))
    yield from (
        b"\x91" * 100_000 + b"\xc0",
        b"\x81\xa1a" * 100_000 + b"\xc0",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
    )
    yield from (b"\x81\xa1a" + code + b"\xff\xff\xff\xff" for code in (b"\xc6", b"\xc9", b"\xdb", b"\xdd", b"\xdf"))
    yield b"\xdd\x00\x10\x00\x00" + b"\xc0" * (1 << 20)
    yield b"\xdf\x00\x01\x86\xa0" + b"".join(b"\xa6%06d\xc0" % at for at in range(100_000))
    yield b"\xdf\x00\x01\x86\xa1" + b"".join(
        b"\xa6%06d" % at + _packed(_extension([[0], dtype, b""])) for at in range(100_001)
    )
    yield b"\x82" + 2 * (_packed(first) + _packed(state[first]))
    yield b"\x81\xc4\x01a\xc0"
    yield b"\x81\x01\xc0"
    yield b"\x81\xa2\xff\xfe" + _packed(state[first])
    for name in NAMES:
        yield msgpack.packb({name: state[first], **state}, unicode_errors="surrogatepass")
        yield msgpack.packb({**state, "params": {name: state[first]}}, unicode_errors="surrogatepass")
    for size in _SIZES:
        yield _packed({**state, first: _extension([[size], dtype, data])})
        yield _packed({**state, first: _extension([size, dtype, data])})
        yield _packed({**state, first: {_CHUNKED: True, "shape": {"0": size}, "chunks": {"0": state[first]}}})
    for kind in _TYPES:
        yield _packed({**state, first: _extension([shape, kind, data])})
    for content in (
        [],
        [shape],
        [shape, dtype],
        [shape, dtype, data, 1],
        {"0": shape},
        [shape, dtype, "text"],
        data,
        None,
    ):
        yield _packed({**state, first: _extension(content)})
    yield from (_packed({**state, first: _extension([shape, dtype, data], kind)}) for kind in (0, 2, 3, 4, 127))
    yield _packed({**state, first: _extension([[1] * 10_000, dtype, data])})
    yield _packed({**state, first: {_CHUNKED: True, "shape": {}, "chunks": {}}})
    yield _packed(
        {**state, first: {_CHUNKED: True, "shape": {"0": 1}, "chunks": {str(at): None for at in range(1000)}}}
    )
    nested: object = state[first]
    for _ in range(60):
        nested = {_CHUNKED: True, "shape": {"0": len(data)}, "chunks": {"0": nested}}
    yield _packed({**state, first: nested})


def _write(make: Callable[[h5py.File], object], path: Path) -> None:
    with h5py.File(path, "w") as file:
        make(file)
        for key, value in honest().items():
            if key.replace(".", "/") not in file:
                file[key.replace(".", "/")] = value


def _hdf5() -> Iterator[Callable[[Any], object]]:
    weight = next(iter(honest().values()))
    yield lambda f: f.__setitem__("a", h5py.ExternalLink("/etc/passwd", "/"))
    yield lambda f: f.__setitem__("a", h5py.ExternalLink("a.safetensors", "/"))
    yield lambda f: f.__setitem__("a", h5py.SoftLink("/a"))
    yield lambda f: f.__setitem__("a", h5py.SoftLink("/nowhere"))
    yield lambda f: f.create_group("g").__setitem__("again", f["/"])
    yield lambda f: (f.create_group("g/h"), f["g/h"].__setitem__("g", f["g"]))
    yield lambda f: f.create_dataset("a", (1 << 40,), "f4")
    yield lambda f: f.create_dataset("a", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")
    yield lambda f: f.create_dataset("a", (1 << 28,), "u1", chunks=(1 << 28,), compression="gzip")
    yield lambda f: f.create_dataset("a", (1 << 16, 1 << 16, 1 << 16), "f4", chunks=(1, 1, 1 << 16))
    yield lambda f: f.create_dataset("a", (8,), "f4", external=[("/etc/passwd", 0, 32)])
    yield lambda f: f.create_dataset("a", (8,), "f4", external=[("a.safetensors", 0, 32)])
    yield lambda f: f.create_virtual_dataset("a", _elsewhere())
    for kind in (object, "S8", "V8", "c8", "c16", "f2", ">f8", "i8", "?", "f16"):
        yield partial(_typed, kind=kind)
    yield lambda f: f.create_dataset("a", data=h5py.Empty("f4"))
    yield lambda f: f.create_dataset("a", data=np.zeros(2, [("x", "f4"), ("y", "O")][:1]))
    yield lambda f: f.create_dataset("a", (0, 8), "f4")
    yield lambda f: f.create_dataset("a", data=np.zeros((1,) * 32, "f4"))
    yield lambda f: f.__setitem__("a", np.dtype("f4"))
    yield lambda f: f.create_dataset("a", data=[f.ref], dtype=h5py.ref_dtype)
    yield lambda f: f.create_group("/".join("g" * 3000))
    yield lambda f: [f.create_group(f"g{at}") for at in range(20_000)]
    yield lambda f: f.attrs.__setitem__("model_config", "x" * 60_000)
    for name in NAMES:
        if name.strip("./") and "\x00" not in name and name.isprintable() | (ord(max(name)) < 0xD800):
            yield partial(_named, name=name, weight=weight)


def _typed(file: Any, kind: Any) -> None:
    file.create_dataset("a", (4,), h5py.string_dtype() if kind is object else kind)


def _named(file: Any, name: str, weight: np.ndarray[Any, Any]) -> None:
    file[name] = weight


def _elsewhere() -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((8,), "f4")
    layout[:] = h5py.VirtualSource("a.safetensors", "d", (8,))
    return layout
