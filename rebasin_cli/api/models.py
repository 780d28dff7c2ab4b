"""What users hand over as a network: a module, a state dict, or a path."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebasin_cli.api.calls import public
from rebasin_cli.api.showing import Shown
from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.inputs import Source, named_source
from rebasin_cli.safe_text import first_names

if TYPE_CHECKING:
    from torch import Tensor, nn

    Model = str | os.PathLike[str] | Mapping[str, Tensor] | nn.Module
    """A path as the command takes it (`FILE`, `FILE:KEY`, a folder), a state dict, or a module."""

_EXTRA = "_extra_state"  # what a module may add to its state dict that is no tensor


@dataclass(frozen=True, slots=True, eq=False)
class GivenModel:
    """A network as it was handed over.

    Attributes:
        module: None if it was none.
        keys: in its own order; devices: where tensors were that were not on the CPU. Of what is in memory alone.
    """

    source: Source
    module: nn.Module | None = None
    keys: tuple[str, ...] = ()
    devices: Mapping[str, Any] = field(default_factory=dict)

    def state(self, like: Checkpoint, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Tensors like these: in their order, and where they were.

        Args:
            like: what they are, by key; read: gives the tensor, or its bytes.
        """
        from rebasin_cli.checkpoints.tensors import as_tensor

        found = {}
        for key in self.keys or tuple(like.infos):
            tensor, info = read(key), like.infos[key]
            is_bytes = tensor.dim() == 1 and tensor.element_size() == 1 and tensor.numel() == info.nbytes
            value = as_tensor(tensor, info) if is_bytes else tensor.detach().clone()
            found[key] = value.to(self.devices.get(key, "cpu"))
        return found


def each_of(value: Model) -> list[Model]:
    """The members of a file where a path names several (`FILE:models.*`); anything else is one.

    Raises:
        RebasinError: the file cannot be read, or has no such members.
    """
    if isinstance(value, str | os.PathLike) and isinstance(path := os.fspath(value), str) and path:
        from rebasin_cli.checkpoints.members import expanded

        return list(expanded(Path(path)))
    return [value]


def given_model(name: str, value: Model, progress: Progress) -> GivenModel:
    """What a user handed over as `name` ("A"); tensors are copied.

    Raises:
        UsageError: it is nothing of the kind. ContentError: tensors that cannot be held.
    """
    if isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        if not isinstance(path, str) or not path:
            raise UsageError(f"{name} is {path!r}, which is no path", remedy="name a file or a folder")
        return GivenModel(named_source(Path(path), progress))
    from torch import Tensor, nn

    from rebasin_cli.checkpoints.held import held_checkpoint

    module = value if isinstance(value, nn.Module) else None
    if module is not None:
        value = {key: tensor for key, tensor in module.state_dict().items() if not key.endswith(_EXTRA)}
    if not isinstance(value, Mapping):
        raise UsageError(
            f"{name} is a {type(value).__name__}, which is no network",
            remedy="pass a module, its state_dict(), or the path of a checkpoint",
        )
    held = held_checkpoint(f"<{name}>", value)
    for note in held.notes:
        progress.warn(note)
    tensors = {key: tensor for key, tensor in value.items() if isinstance(tensor, Tensor)}
    devices = {key: tensor.device for key, tensor in tensors.items() if tensor.device.type != "cpu"}
    return GivenModel(Source.memory(held), module, tuple(tensors), devices)


def first_module(models: Iterable[GivenModel]) -> nn.Module | None:
    """The first of the networks that is a module."""
    return next((model.module for model in models if model.module is not None), None)


def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load tensors into a module, every one of its own.

    Raises:
        ContentError: names or shapes differ; nothing is loaded where names do.
    """
    own = {key for key in module.state_dict() if not key.endswith(_EXTRA)}
    missing, unknown = sorted(own - set(state)), sorted(set(state) - own)
    if missing or unknown:
        which = first_names(missing or unknown, 3)
        raise ContentError(
            f"the module {'has tensors that are not in the result' if missing else 'lacks tensors'}: {which}",
            remedy="load it into a module of the class that was aligned",
        )
    try:
        module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ContentError(str(error).partition("\n")[2].strip() or str(error), where=type(module).__name__) from error
    return module


def module_with(model: GivenModel, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the module that was handed over, with other tensors.

    Raises:
        UsageError: it was no module.
    """
    if model.module is None:
        raise UsageError(
            "no module was passed that could be copied", remedy="load the result into one of yours: load_into(module)"
        )
    return load_state(copy.deepcopy(model.module), state)


class OneNetwork(Shown):
    """A result that is one network, like one of those that were passed."""

    def _made(self) -> tuple[GivenModel, dict[str, Tensor]]:
        """The network that was passed, and the new tensors."""
        raise NotImplementedError

    @public()
    def load_into(self, module: nn.Module) -> nn.Module:
        """Load the result into a module, which is returned.

        Raises:
            ContentError: its tensors have other names or shapes.

        Example:
            >>> rebasin.align(model_a, model_b).load_into(model_b) is model_b
            True
            >>> rebasin.merge([a, b]).load_into(model_a) is model_a
            True
        """
        return load_state(module, self._made()[1])

    @public()
    def module(self) -> nn.Module:
        """A copy of the module that was passed, with the tensors of the result: B aligned, the network that a
        permutation was applied to, or the first of those that were merged.

        Raises:
            UsageError: it was no module.

        Example:
            >>> rebasin.align(model_a, model_b).module().training
            False
            >>> type(rebasin.merge([model_a, model_b]).module()).__name__
            'Perceptron'
        """
        return module_with(*self._made())
