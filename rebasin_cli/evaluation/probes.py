"""A network with a few inputs, to be run on a checkpoint before and after its units are permuted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.answers import answer_of
from rebasin_cli.evaluation.comparing import Run, Trace
from rebasin_cli.evaluation.evaluate import AnyNetwork
from rebasin_cli.evaluation.examples import guesses
from rebasin_cli.evaluation.given import GivenNetwork, NetworkName
from rebasin_cli.evaluation.inputs import Inputs, rows_of
from rebasin_cli.evaluation.libraries import on_files_of_others
from rebasin_cli.evaluation.networks.module_network import ModuleNetwork, build_module, of_module
from rebasin_cli.evaluation.networks.network import Network
from rebasin_cli.evaluation.networks.pretrained import architecture_of, build_model, class_named, config_of
from rebasin_cli.evaluation.running import answers_of, in_dtype, module_in_dtype, run_module
from rebasin_cli.hooks import Layer, Taps

EXAMPLES = 4
"""A wrong permutation shows in every example; several, in case that one makes no unit answer."""

_TOKENS = 12
_LARGEST_IMAGE = 1 << 24  # numbers: 2,300 pixels a side


@dataclass(frozen=True, slots=True)
class Probe:
    """What B and B permuted are run on.

    Attributes:
        name: of the network, for people; examples: how many inputs.
        run_in: makes a run in a dtype, which the network need not take.
        built_in: whether the network was chosen by names and shapes, as the spec was.
    """

    name: str
    examples: int
    run_in: Callable[[torch.dtype], Run]
    built_in: bool = False


def network_probe(network: AnyNetwork, inputs: Inputs, device: str) -> Probe:
    """A network that is evaluated anyway, on the first of its examples."""
    rows = rows_of(inputs, slice(EXAMPLES))

    def run_in(dtype: torch.dtype) -> Run:
        def run(state: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
            params = in_dtype(network.load(state, device), dtype)
            if isinstance(network, ModuleNetwork):
                module_in_dtype(network.module, dtype)
            taps = None if trace is None else _Recorder(frozenset(network.modules()), trace)
            with torch.inference_mode():
                return {"answer": answer_of(network.family, network.outputs(params, rows, taps))}

        return run

    if isinstance(network, Network):
        return Probe(f"the built-in {network.family}", _count(rows), run_in, built_in=True)
    return Probe(network.family.removeprefix("--network "), _count(rows), run_in)


def own_probe(
    reference: NetworkName, state: Mapping[str, Tensor], prefix: str, options: Mapping[str, str]
) -> Probe | None:
    """A network of the user's own on the inputs that its factory returns with it; None where a module in memory was
    given without any, and none can be guessed.

    Raises:
        UsageError: it cannot be imported, or returns no inputs. ContentError: its tensors are not the checkpoint's.
    """
    module, inputs = build_module(reference, state, options)
    guessed = ""
    if inputs is None:
        inputs, called = next(guesses(module), (None, ""))
        inputs, guessed = (inputs,) if isinstance(inputs, Tensor) else inputs, f" on a guess of its inputs, {called}"
    if inputs is None and isinstance(reference, GivenNetwork):
        return None
    if inputs is None:
        raise UsageError(
            f"--network {reference} returns a network alone, and there is nothing to run it on",
            remedy="add --data FILE, or let it return (module, inputs)",
        )
    network = of_module(f"--network {reference}", module, state, prefix)

    def run_in(dtype: torch.dtype) -> Run:
        def run(tensors: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
            params = in_dtype(network.load(tensors), dtype)
            module_in_dtype(network.module, dtype).load_state_dict(params, strict=False)
            return answers_of(run_module(network.module, in_dtype(inputs, dtype), trace))

        return run

    return Probe(f"{reference}{guessed}", _count(inputs), run_in)


def pretrained_probe(config: Mapping[str, Any], folder: Path, state: Mapping[str, Tensor], seed: int = 0) -> Probe:
    """The model of transformers that a config.json names, on random tokens or pixels; nothing is fetched.

    Raises:
        UsageError: transformers cannot be imported. ContentError: it has no such class, or one with other inputs.
    """
    name = architecture_of(config)
    model_class = class_named(name, folder)
    made = config_of(model_class, folder, state)
    remedy = "name the network with --network, and its inputs with --data"
    with on_files_of_others("no inputs can be made for the network of config.json", remedy, folder):
        inputs = _random_inputs(made, str(getattr(model_class, "main_input_name", "")), seed)

    def run_in(dtype: torch.dtype) -> Run:
        def run(state: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
            model = build_model(model_class, made, state, dtype)
            return answers_of(run_module(model.to(dtype).eval(), in_dtype(inputs, dtype), trace))

        return run

    return Probe(name, _count(inputs), run_in)


def _random_inputs(config: Any, reads: str, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if reads == "input_ids":
        ids = torch.randint(0, int(config.vocab_size), (EXAMPLES, _TOKENS), generator=generator)
        return {"input_ids": ids} | ({"decoder_input_ids": ids} if config.is_encoder_decoder else {})
    if reads == "pixel_values":
        size = config.image_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        if not 0 < config.num_channels * height * width <= _LARGEST_IMAGE:
            raise ContentError(f"images of {config.num_channels} × {height} × {width} are too large to try")
        return {"pixel_values": torch.randn(EXAMPLES, config.num_channels, height, width, generator=generator)}
    raise ContentError(f"a network that reads {reads or 'nothing known'} is not run")


def _count(inputs: Any) -> int:
    """How many examples there are: the length of the first tensor."""
    if isinstance(inputs, Tensor):
        return len(inputs) if inputs.dim() else 1
    values = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, (list, tuple)) else ()
    return next((_count(value) for value in values), 1)


class _Recorder(Taps):
    """Writes down what every module makes."""

    def __init__(self, modules: frozenset[str], trace: Trace) -> None:
        self.modules, self.trace = modules, trace

    def leaving(self, layer: Layer, y: Tensor) -> Tensor:
        self.trace.append((layer.name, y.detach().clone()))
        return y
