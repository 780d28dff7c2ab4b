"""What is mixed has to be finite: values that overflow are counted while a checkpoint is written, and refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from rebasin_cli.checkpoints import TensorInfo, count_non_finite, tensor_bytes
from rebasin_cli.errors import ContentError

_LISTED = 5  # tensors that an error names


class FiniteReader:
    """Reads tensors for a writer, and counts the values that are NaN or infinite.

    Args:
        read: key -> the tensor in its final dtype, or its raw bytes.
        infos: what is written, by key.
        at_once: whether the first such value is an error at once: a pipe cannot be taken back.
    """

    def __init__(self, read: Callable[[str], Tensor], infos: Mapping[str, TensorInfo], *, at_once: bool) -> None:
        self._read, self._infos, self._at_once = read, infos, at_once
        self.counts: dict[str, int] = {}

    def __call__(self, key: str) -> Tensor:
        tensor = self._read(key)
        count = count_non_finite(tensor_bytes(tensor), self._infos[key].dtype)
        if count:
            self.counts[key] = count
            if self._at_once:
                self.check()
        return tensor

    def check(self) -> None:
        """Stop if there were any.

        Raises:
            ContentError: naming tensors, counts and types.
        """
        if self.counts:
            raise ContentError(
                self.found(),
                remedy="the result has the first checkpoint's types, into which these values do not fit: convert it to "
                "float32 first, name the wider one first, or keep them with --allow-non-finite",
            )

    def found(self) -> str:
        """What was counted: tensors, counts and types."""
        listed = ", ".join(
            f"{key} ({count} of {self._infos[key].numel}, {self._infos[key].dtype})"
            for key, count in list(self.counts.items())[:_LISTED]
        )
        more = f" and {len(self.counts) - _LISTED} more" if len(self.counts) > _LISTED else ""
        tensors = (
            "1 tensor of the result has" if len(self.counts) == 1 else f"{len(self.counts)} tensors of the result have"
        )
        return f"{tensors} values that are not finite: {listed}{more}"
