"""From the records of a pickle to tensors that can be read: which type, which shape, which bytes.

torch's own functions that rebuild tensors are not called: their result is read from their arguments, and
checked against the bytes in the file. No tensor is in memory until `views` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from rebasin_cli.checkpoints.header import BITS, TORCH_NAMES, TensorInfo
from rebasin_cli.checkpoints.inert import PERSISTENT, Global, PickleFault, Thing

_INT64 = 1 << 63
EXPANDED = 256 << 20  # bytes that a tensor may have beyond those that are stored (an expanded view)

# Names of types: torch's (with its storages'), NumPy's. What safetensors cannot hold has only a size.
_OF_TORCH = {text: name for name, text in TORCH_NAMES.items()}
_OTHERS = {"complex128": 16, "complex32": 4, "quint8": 1, "qint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1}
_OF_STORAGE = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64", "UntypedStorage": "uint8",
    "ComplexDoubleStorage": "complex128", "QUInt8Storage": "quint8", "QInt8Storage": "qint8",
    "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
}  # fmt: skip
_OF_NUMPY = {
    "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64", "b1": "BOOL",
    "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64", "u1": "U8", "u2": "U16", "u4": "U32", "u8": "U64",
}  # fmt: skip
_ARRAY_MODULES = ("numpy.core.multiarray.", "numpy._core.multiarray.", "numpy.core.numeric.", "numpy._core.numeric.")
_REBUILD = "torch._utils._rebuild_"
_REFUSED = {
    "sparse_tensor": "torch.sparse_coo",
    "meta_tensor_no_storage": "without data",
    "nested_tensor": "nested",
    "wrapper_subclass": "of a class of its own",
}


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes that tensors are views of.

    Attributes:
        key: its name in the file.
        dtype: torch's name of its element type.
        numel: how many elements the pickle claims.
        view: (first element, elements) of it that are meant, in the oldest files.
    """

    key: str
    dtype: str
    numel: int
    view: tuple[int, int] | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return item_size(self.dtype)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        info: type and shape.
        source: the storage, or the bytes themselves (of an array inside the pickle).
        offset: its first element; `stride`: elements from one index to the next, by axis.
        swapped: whether its bytes are in the order of other machines.
        flips: "conj" and "neg" if torch deferred them.
    """

    info: TensorInfo
    source: Storage | bytes
    offset: int
    stride: tuple[int, ...]
    swapped: bool = False
    flips: frozenset[str] = frozenset()

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return BITS[self.info.dtype] // 8

    @property
    def span(self) -> int:
        """Elements from the first to the last, both included."""
        return 0 if not self.info.numel else span_of(self.info.shape, self.stride)


@dataclass(frozen=True, slots=True)
class UnreadableTensor:
    """A tensor that safetensors cannot hold: its kind, and whether its values are packed (quantised)."""

    kind: str
    packed: bool = False


def item_size(dtype: str) -> int:
    """Bytes of an element of torch's type of this name."""
    return BITS[_OF_TORCH[dtype]] // 8 if dtype in _OF_TORCH else _OTHERS[dtype]


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of torch's or a plain array; cheap, and says nothing about its soundness."""
    if not isinstance(value, Thing):
        return False
    if value.kind.startswith(_ARRAY_MODULES):
        return value.kind.endswith(("._reconstruct", "._frombuffer"))
    return value.kind.startswith((_REBUILD, "torch._tensor._rebuild_from_type"))


def read_tensor_record(value: Any, nested: int = 8) -> StoredTensor | UnreadableTensor:
    """The tensor that `value` would have become; `nested`: how many may be within one another (a parameter's).

    Raises:
        PickleFault: its parts do not fit one another.
    """
    if not is_tensor(value) or not nested:
        raise PickleFault("a parameter has no tensor in it")
    if value.kind.startswith(_ARRAY_MODULES):
        return _array(value)
    name, args = value.kind.removeprefix(_REBUILD), value.args
    if name in ("parameter", "parameter_with_state") and args:
        return read_tensor_record(args[0], nested - 1)
    if name.startswith("device_tensor_from_") and len(args) > 1:
        inner = read_tensor_record(args[0], nested - 1)
        same = (
            isinstance(inner, StoredTensor)
            and _torch_type(args[1]) in _OF_TORCH
            and (_OF_TORCH[_torch_type(args[1])] == inner.info.dtype)
        )
        return inner if same else UnreadableTensor("of another type than its data")
    if value.kind.startswith("torch._tensor._rebuild_from_type"):
        if len(args) < 3 or not isinstance(args[0], Global) or not isinstance(args[1], Global):
            raise PickleFault("a tensor's record has too few parts")
        if args[1].text not in _PLAIN:
            return UnreadableTensor(f"of the class {args[1].text[:80]}")
        return read_tensor_record(Thing(args[0], args[2]), nested - 1)
    return _dense(name, args)


def _torch_type(value: Any) -> str:
    return value.name if isinstance(value, Global) and value.module == "torch" else ""


_PLAIN = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")


def _dense(name: str, args: Sequence[Any]) -> StoredTensor | UnreadableTensor:
    if name == "qtensor" and args:
        return UnreadableTensor(f"torch.{storage_of(args[0]).dtype}", packed=True)
    if name not in ("tensor", "tensor_v2", "tensor_v3"):
        return UnreadableTensor(_REFUSED.get(name, "unknown"))
    if len(args) < 4:
        raise PickleFault("a tensor's record has too few parts")
    storage = storage_of(args[0])
    shape, stride = _counts(args[2]), _counts(args[3])
    dtype, metadata = storage.dtype, args[6] if name == "tensor_v2" and len(args) > 6 else None
    if name == "tensor_v3":
        dtype = _torch_type(args[6]) if len(args) > 6 else ""
        metadata = args[7] if len(args) > 7 else None
    if dtype not in _OF_TORCH:
        return UnreadableTensor(f"torch.{dtype}", packed=dtype.startswith("q"))
    if len(shape) != len(stride) or type(args[1]) is not int or not 0 <= args[1] < _INT64:
        raise PickleFault(f"a tensor of shape {list(shape)[:8]} has other strides than axes, or no offset")
    flips = frozenset(k for k in ("conj", "neg") if isinstance(metadata, dict) and metadata.get(k))
    tensor = StoredTensor(TensorInfo(_OF_TORCH[dtype], shape), storage, args[1], stride, flips=flips)
    first, available = storage.view or (0, storage.numel)
    if first + available > storage.numel:
        raise PickleFault("a view of a storage lies outside it")
    _check_inside(tensor, available * storage.itemsize)
    return replace(tensor, offset=tensor.offset + first * storage.itemsize // tensor.itemsize) if first else tensor


def storage_of(value: Any) -> Storage:
    """The storage that a persistent id names.

    Raises:
        PickleFault: it names something else.
    """
    while isinstance(value, Thing) and value.kind == "torch.storage.TypedStorage" and value.args:
        value = value.args[0]
    parts = value.args if isinstance(value, Thing) and value.kind == PERSISTENT else ()
    if len(parts) not in (5, 6) or parts[0] not in ("storage", b"storage"):
        raise PickleFault("a tensor has no storage")
    kind, key, numel = parts[1], parts[2], parts[4]
    view = parts[5] if len(parts) == 6 else None
    if not isinstance(kind, Global) or kind.name not in _OF_STORAGE:
        raise PickleFault("a storage is of a type that torch does not have")
    if not (isinstance(key, str) or _is_count(key)) or not _is_count(numel):
        raise PickleFault("a storage has no name or no size")
    if view is not None and not (isinstance(view, tuple) and len(view) == 3 and all(map(_is_count, view[1:]))):
        raise PickleFault("a view of a storage has no place")
    return Storage(str(key), _OF_STORAGE[kind.name], numel, (view[1], view[2]) if view is not None else None)


def _array(value: Thing) -> StoredTensor | UnreadableTensor:
    """A NumPy array, whose bytes are in the pickle itself."""
    if value.kind.endswith("._frombuffer"):
        data, dtype, shape, order = value.args if len(value.args) == 4 else (None, None, None, None)
        fortran = order == "F"
    else:
        state = value.state if isinstance(value.state, tuple) and len(value.state) == 5 else (0, (), None, False, None)
        _, shape, dtype, fortran, data = state
    name, swapped = _numpy_type(dtype)
    if name is None:
        return UnreadableTensor("an array that is not of plain numbers")
    sizes, content = _counts(shape), bytes_of(data)
    if content is None:
        raise PickleFault("an array has no data")
    axes = range(len(sizes))
    stride = tuple(prod(sizes[:axis] if fortran else sizes[axis + 1 :]) for axis in axes)
    tensor = StoredTensor(TensorInfo(name, sizes), content, 0, stride, swapped)
    _check_inside(tensor, len(content))
    return tensor


def bytes_of(value: Any) -> bytes | None:
    """Bytes, also in the form that old protocols give them: text to be encoded."""
    if isinstance(value, Thing) and value.kind == "_codecs.encode" and value.args and isinstance(value.args[0], str):
        try:
            return value.args[0].encode("latin-1")
        except UnicodeEncodeError:
            return None
    if isinstance(value, Thing) and value.kind == "builtins.bytes" and not value.args:
        return b""
    if isinstance(value, str) and value.isascii():  # of Python 2
        return value.encode()
    return value if isinstance(value, bytes) else None


def _numpy_type(value: Any) -> tuple[str | None, bool]:
    if not isinstance(value, Thing) or value.kind != "numpy.dtype" or not value.args:
        return None, False
    state = value.state if isinstance(value.state, tuple) and len(value.state) > 1 else (3, "|")
    text = value.args[0].decode("latin-1") if isinstance(value.args[0], bytes) else value.args[0]
    if not isinstance(text, str) or (len(state) > 4 and (state[2] is not None or state[3] is not None)):
        return None, False
    return _OF_NUMPY.get(text.lstrip("<>|=")), state[1] in (">", b">")


def _counts(value: Any) -> tuple[int, ...]:
    """Sizes or strides: whole numbers from 0 that 64 bits hold."""
    if isinstance(value, Thing) and value.kind == "torch.Size" and len(value.args) == 1:
        value = value.args[0]
    if not isinstance(value, list | tuple) or len(value) > 64 or not all(map(_is_count, value)):
        raise PickleFault("a tensor's sizes or strides are not whole numbers")
    return tuple(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _INT64


def span_of(shape: Sequence[int], stride: Sequence[int]) -> int:
    """Elements from the first to the last of a view that has some."""
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _check_inside(tensor: StoredTensor, available: int) -> None:
    """A view must lie in its storage: the bytes after it belong to something else."""
    end = (tensor.offset + tensor.span) * tensor.itemsize
    if prod(size for size in tensor.info.shape if size) >= _INT64:
        raise PickleFault(f"the shape {list(tensor.info.shape)} is larger than any memory")
    if tensor.info.numel and end > available:
        raise PickleFault(
            f"a tensor of shape {list(tensor.info.shape)} reaches to byte {end} of its storage, which has {available}"
        )
    if tensor.info.nbytes > available + EXPANDED:
        raise PickleFault(f"a tensor of shape {list(tensor.info.shape)} repeats {available} bytes without end")
