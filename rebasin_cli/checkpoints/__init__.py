"""Files <-> tensors: every format opens as the same lazy `Checkpoint`, and is written back as safetensors.

The rooms above never see a file: they get names, shapes and types from headers, tensors one at a time, and give
tensors back one at a time.
"""

from rebasin_cli.checkpoints.addresses import file_name_of, split_address
from rebasin_cli.checkpoints.checkpoint import Checkpoint, Index, RenamedCheckpoint, Shard
from rebasin_cli.checkpoints.dtypes import (
    BITS,
    TORCH_DTYPES,
    TensorInfo,
    as_bytes,
    as_elements,
    as_tensor,
    dtype_name,
    is_floating,
    tensor_bytes,
    torch_dtype,
)
from rebasin_cli.checkpoints.memory import give_freed_memory_back
from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.checkpoints.replacing import check_file_target, replacing_file
from rebasin_cli.checkpoints.scan import ScanResult, count_non_finite, hash_tensors, require_finite, scan
from rebasin_cli.checkpoints.writer import (
    check_target,
    stream_checkpoint,
    tensors_bytes,
    write_checkpoint,
    write_tensors,
)
from rebasin_cli.failures import human_bytes, system_failure

__all__ = [
    "BITS",
    "TORCH_DTYPES",
    "Checkpoint",
    "Index",
    "Outputs",
    "RenamedCheckpoint",
    "ScanResult",
    "Shard",
    "TensorInfo",
    "as_bytes",
    "as_elements",
    "as_tensor",
    "check_file_target",
    "check_target",
    "count_non_finite",
    "dtype_name",
    "file_name_of",
    "give_freed_memory_back",
    "hash_tensors",
    "human_bytes",
    "is_floating",
    "open_checkpoint",
    "replacing_file",
    "require_finite",
    "scan",
    "split_address",
    "stream_checkpoint",
    "system_failure",
    "tensor_bytes",
    "tensors_bytes",
    "torch_dtype",
    "write_checkpoint",
    "write_tensors",
]
