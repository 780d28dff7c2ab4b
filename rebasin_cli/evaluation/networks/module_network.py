"""Networks that are torch modules: a user's own, run through `torch.func.functional_call` with taps as hooks."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.answers import answer_of
from rebasin_cli.evaluation.given import GivenNetwork, NetworkName
from rebasin_cli.evaluation.inputs import Inputs, arguments, each
from rebasin_cli.evaluation.networks.network import Answers, Params, read_tensor
from rebasin_cli.evaluation.networks.tied import joined, tied_names
from rebasin_cli.evaluation.running import in_dtype, module_in_dtype
from rebasin_cli.evaluation.user_code import call_named, import_named
from rebasin_cli.hooks import Layer, Taps
from rebasin_cli.safe_text import first_names

HELP = "a function of the state dict and of the --network-option values as keywords, which returns an nn.Module"


_STATE = ("state", "state_dict", "checkpoint", "params", "tensors", "weights")


class ModuleNetwork:
    """A module without weights of its own: what `Network` is for functions, for any `nn.Module`.

    Attributes:
        family: what it is called in messages.
        prefix: what stands before the module's names in the state dicts it is given.
        shapes: the tensors of the checkpoint that it reads, by its own names.
        tied: the names that stand for one tensor, a group each.
        argument: the keyword under which its forward takes inputs; None: the first one.
        batch_size: examples at a time, unless the user says otherwise.
        answers: what it is asked.
    """

    def __init__(
        self,
        family: str,
        module: nn.Module,
        keys: Mapping[str, tuple[int, ...]],
        prefix: str,
        *,
        argument: str | None = None,
        batch_size: int = 512,
        answers: Answers = "example",
    ) -> None:
        self.family, self.module, self.prefix, self.argument = family, module.eval(), prefix, argument
        self.batch_size, self.answers = batch_size, answers
        self.tied = tied_names(module)
        self.shapes, self.assumptions = _check_keys(family, module, keys, prefix)

    def load(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The tensors it reads, on `device`; floats in float32, in float64 where any is; of tied ones the first name.

        Raises:
            ContentError: tied tensors of the state are not equal.
        """
        self.module.to(device)
        params = {name: read_tensor(state, self.prefix + name).to(device) for name in self.shapes}
        wide = any(tensor.dtype == torch.float64 for tensor in params.values())
        dtype = torch.float64 if wide else torch.float32
        module_in_dtype(self.module, dtype)
        params = in_dtype(params, dtype)
        # torch has no gradient of BatchNorm by its running statistics, and fails where they ask for one
        params |= {name: params[name].detach() for name, _ in self.module.named_buffers() if name in params}
        return joined(self.family, self.tied, params, self.prefix)

    def keys(self, name: str) -> tuple[str, ...]:
        """The keys of the checkpoint that hold a tensor: of a tied one all that there are."""
        group = next((group for group in self.tied if name in group), (name,))
        return tuple(self.prefix + other for other in group if other in self.shapes)

    def trainable(self) -> tuple[str, ...]:
        """The names of what is learnt by gradients: the parameters, and no buffers."""
        return tuple(name for name, _ in self.module.named_parameters())

    def apart(self) -> ModuleNetwork:
        """The same network with a module of its own, which may run while this one does; its tensors are the same."""
        shared = {id(tensor): tensor for tensor in (*self.module.parameters(), *self.module.buffers())}
        found = copy.copy(self)
        found.module = copy.deepcopy(self.module, shared)
        return found

    def modules(self) -> tuple[str, ...]:
        """Everything that taps can be told of."""
        return tuple(name for name, _ in self.module.named_modules() if name)

    def outputs(self, params: Params, inputs: Inputs, taps: Taps | None = None) -> Any:
        """Whatever the module returns for `inputs`, given tensors from `load`."""
        floats = next(t for t in params.values() if t.is_floating_point())

        def placed(_: str, tensor: Tensor) -> Tensor:
            return tensor.to(floats.device, floats.dtype if tensor.is_floating_point() else tensor.dtype)

        inputs = each(placed, inputs)
        if isinstance(inputs, Tensor) and self.argument:
            inputs = {self.argument: inputs}
        positional, named = arguments(self.module.forward, inputs)
        with hooked(self.module, taps):
            return functional_call(self.module, dict(params), positional, named)

    def logits(self, params: Params, inputs: Inputs, taps: Taps | None = None) -> Tensor:
        """The tensor among the outputs that is judged: (N, classes), (N, tokens, vocabulary), or whatever it is."""
        return answer_of(self.family, self.outputs(params, inputs, taps))


def user_network(
    reference: NetworkName, state: Mapping[str, Tensor], prefix: str, options: Mapping[str, str]
) -> ModuleNetwork:
    """Import `package.module:factory`, call it with the state dict and the options, and take the module it returns.

    Raises:
        UsageError: the reference cannot be imported.
        ContentError: the factory fails, returns no module, or one whose tensors are not the checkpoint's.
    """
    module, _ = build_module(reference, state, options)
    return of_module(f"--network {reference}", module, state, prefix)


def of_module(name: str, module: nn.Module, state: Mapping[str, Tensor], prefix: str) -> ModuleNetwork:
    """A module as the network of a state, of which no tensor is read.

    Raises:
        ContentError: its tensors are not those of the state.
    """
    shapes = {key: tuple(info.shape) for key, info in getattr(state, "infos", state).items()}
    return ModuleNetwork(name, module, shapes, "" if set(module.state_dict()) & set(shapes) else prefix)


def build_module(
    reference: NetworkName, state: Mapping[str, Tensor], options: Mapping[str, str]
) -> tuple[nn.Module, Any]:
    """What a user's factory returns: a module, and the example inputs beside it, None if there are none.

    A factory that takes nothing, as `rebasin arch prove` calls it, is called with nothing.

    Raises:
        UsageError: the reference cannot be imported. ContentError: the factory fails, or returns no module, or one
            whose sizes only a run on inputs would tell.
    """
    if isinstance(reference, GivenNetwork):
        return _with_sizes(reference, _copied(reference), reference.inputs)
    factory = import_named("--network", reference, HELP)
    given = (dict(state),) if _takes_state(factory) else ()
    made = call_named("--network", reference, factory, *given, **options)
    module, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise ContentError(f"--network {reference}: the factory returned {called(module)}", remedy=HELP)
    return _with_sizes(reference, module, inputs)


def _with_sizes(reference: NetworkName, module: nn.Module, inputs: Any) -> tuple[nn.Module, Any]:
    """A module and its example inputs; lazy modules in it take their sizes from a run on these.

    Raises:
        ContentError: there are lazy modules, and no inputs.
    """
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    lazy = [key for key, tensor in (*module.named_parameters(), *module.named_buffers()) if is_lazy(tensor)]
    if lazy and inputs is None:
        raise ContentError(
            f"--network {reference}: {lazy[0]} has no size before the network has run",
            remedy="return the module and example inputs for it, or run it once before it is returned",
        )
    if lazy:
        positional, named = arguments(module.forward, inputs)
        with torch.no_grad():
            call_named("--network", str(reference), module, *positional, **named)
    return module, inputs


def called(made: object) -> str:
    """What a factory returned that is no module."""
    if isinstance(made, type):
        return f"the class {made.__name__}, not a module of it"
    return "nothing" if made is None else type(made).__name__


def _copied(given: GivenNetwork) -> nn.Module:
    """A copy of a module on the CPU: it is run in other dtypes, and with other weights.

    Raises:
        ContentError: it cannot be copied.
    """
    try:
        return copy.deepcopy(given.module).cpu()
    except Exception as error:  # the user's own code
        raise ContentError(
            f"--network {given}: the module cannot be copied: {type(error).__name__}: {error}",
            remedy="copy.deepcopy has to work on it; or pass its state_dict()",
        ) from error


def _takes_state(factory: Callable[..., Any]) -> bool:
    """Whether its first argument is the state dict: it has no default, or such a name; what does not tell has one."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return True
    first = next((p for p in parameters if p.kind != p.KEYWORD_ONLY), None)
    if first is None or first.kind == first.VAR_KEYWORD:
        return False
    return first.default is first.empty or first.name in _STATE


def _check_keys(
    family: str, module: nn.Module, keys: Mapping[str, tuple[int, ...]], prefix: str
) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """What the module reads of the checkpoint, and what must be said about the rest."""
    own = {name: t for name, t in module.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items() if prefix + name in keys}
    known = {name for group in tied_names(module) if any(name in shapes for name in group) for name in group}
    missing = [name for name, t in own.items() if name not in {*shapes, *known} and t.is_floating_point()]
    if missing:
        raise ContentError(
            f"{family} has {len(missing)} tensors that the checkpoint has not: {', '.join(missing[:4])}",
            remedy="its state_dict() must have the checkpoint's keys; see them with `rebasin inspect`",
        )
    for name, shape in shapes.items():
        if shape != keys[prefix + name]:
            raise ContentError(
                f"{family}: {name} has shape {list(shape)} in the network and {list(keys[prefix + name])} "
                "in the checkpoint",
                remedy="build the network from the state dict it is given, or with --network-option",
            )
    unread = [key for key in keys if key.removeprefix(prefix) not in own]
    if not unread:
        return shapes, ()
    return shapes, (f"{len(unread)} tensors of the checkpoint are not in the network: {first_names(unread, 3)}",)


@contextmanager
def hooked(module: nn.Module, taps: Taps | None) -> Iterator[None]:
    """Call the taps whenever one of the module's layers runs."""
    with ExitStack() as stack:
        for name, part in module.named_modules() if taps is not None else ():
            assert taps is not None
            layer = _layer(name, part)
            if layer is not None:
                stack.callback(part.register_forward_pre_hook(_entering(taps, layer)).remove)
            elif name in taps.modules:
                layer = Layer(name, "other", -1)
            if layer is not None:
                stack.callback(part.register_forward_hook(_leaving(taps, layer)).remove)
        yield


def _layer(name: str, part: nn.Module) -> Layer | None:
    if isinstance(part, nn.Linear):
        return Layer(name, "linear", -1)
    if type(part).__name__ == "Conv1D" and hasattr(part, "nf"):  # transformers' own: a linear layer, stored [in, out]
        return Layer(name, "linear", -1, outputs=1)
    if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return Layer(name, "convolution", 1)
    if isinstance(part, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
        return Layer(name, "norm", 1)
    return Layer(name, "norm", -1) if isinstance(part, nn.LayerNorm) and len(part.normalized_shape) == 1 else None


def _entering(taps: Taps, layer: Layer) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            taps.entering(layer, inputs[0])

    return hook


def _leaving(taps: Taps, layer: Layer) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor):  # attention and its weights
            return (taps.leaving(layer, output[0]), *output[1:])
        return taps.leaving(layer, output) if isinstance(output, Tensor) else output

    return hook
