"""Networks of transformers and diffusers from a config, under the names that their files have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.libraries import from_folder, library, on_files_of_others
from rebasin_cli.evaluation.networks.pretrained import architecture_of, class_named
from rebasin_cli.files import read_json

_LIMIT = 16 << 20  # bytes of a config.json
_REMEDY = "name the network with --network, and its inputs with --inputs"
_HIDDEN = (
    "hidden_state", "hidden_states", "attentions", "past_key_values", "model_output", "router_logits", "cache_params",
    "mems", "state",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """What a folder's config.json describes.

    Attributes:
        name: of the class; config: as config.json says it; whole: with the defaults of the class.
        make: a model from such a config; complete: a config with the defaults of the class.
        prefix: what the keys of some files begin with.
    """

    name: str
    config: Mapping[str, Any]
    whole: Mapping[str, Any]
    make: Callable[[Mapping[str, Any]], nn.Module]
    complete: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    prefix: str = ""
    unexpected: tuple[str, ...] = ()


def source_of(folder: Path) -> Source:
    """The model of transformers or diffusers that a folder describes; nothing is fetched, no code of it is run.

    Raises:
        UsageError: the library is not installed. ContentError: it has no such class.
    """
    config = read_json(folder / "config.json", _LIMIT)
    if not isinstance(config, Mapping):
        raise ContentError("config.json holds no table", where=str(folder), remedy=_REMEDY)
    return _of_diffusers(config, folder) if "_class_name" in config else _of_transformers(config, folder)


def _of_transformers(config: Mapping[str, Any], folder: Path) -> Source:
    model_class = class_named(architecture_of(config), folder)
    config_class = type(from_folder("AutoConfig", folder, remedy=_REMEDY))

    def complete(small: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(config_class.from_dict(dict(small)).to_dict())

    def make(small: Mapping[str, Any]) -> nn.Module:
        made = config_class.from_dict(dict(small))
        made._attn_implementation, made.use_cache = "eager", False
        model: nn.Module = model_class(made)
        return model

    prefix = getattr(model_class, "base_model_prefix", "")
    unexpected = tuple(getattr(model_class, "_keys_to_ignore_on_load_unexpected", None) or ())
    return Source(model_class.__name__, config, complete(config), make, complete, prefix and f"{prefix}.", unexpected)


def _of_diffusers(config: Mapping[str, Any], folder: Path) -> Source:
    name, diffusers = str(config["_class_name"]), library("diffusers")
    with on_files_of_others(f"diffusers has no {name} that can be used", _REMEDY, folder):
        found = getattr(diffusers, name, None) if name.isidentifier() else None
        if not (isinstance(found, type) and issubclass(found, diffusers.ModelMixin)):
            raise ContentError(
                f"diffusers {diffusers.__version__} has no model {name}", where=str(folder), remedy=_REMEDY
            )

    model_class: Any = found

    def complete(small: Mapping[str, Any]) -> Mapping[str, Any]:
        parameters = inspect.signature(model_class).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        return {**{n: list(v) if isinstance(v, tuple) else v for n, v in defaults.items()}, **small}

    def make(small: Mapping[str, Any]) -> nn.Module:
        model: nn.Module = model_class.from_config(dict(small))
        return model

    return Source(name, config, complete(config), make, complete)


class FileNetwork(nn.Module):
    """A model whose tensors have the names, and the form, that they have in files.

    Recent versions of transformers rename tensors in memory, and stack experts. Which entry of a file an entry in
    memory is, is learned from numbered tensors; the forward gathers what is stacked from what the files have.
    """

    def __init__(self, model: nn.Module, prefix: str = "", *, as_saved: bool = True) -> None:
        super().__init__()
        self.model, self._prefix = model.double().eval(), prefix
        memory = {k: t for k, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
        files = _files(self.model, memory, as_saved)
        short = {key: key.removeprefix(prefix) for key in files}
        if len(set(short.values())) < len(short):
            short = {key: key for key in files}
        self._keys: dict[str, str] = {}  # of an entry that has the form of files in memory, too: its key there
        self._made: list[str] = []  # of what another form is in memory
        self._places: dict[str, Tensor] = {}
        sources: list[Tensor] = []
        for key, value in files.items():
            if isinstance(value, str):
                self._keys[short[key]] = value
                continue
            flat = torch.cat([t.detach().flatten() for t in memory.values() if t.is_floating_point()])
            made = nn.Parameter(flat[value].clone())
            self.register_parameter(short[key].replace(".", "/"), made)
            self._keys[short[key]] = ""
            self._made.append(short[key])
            sources.append(value.flatten())
        if sources:
            self._find_places(memory, torch.cat(sources))

    def _find_places(self, memory: Mapping[str, Tensor], source: Tensor) -> None:
        floats = {key: t for key, t in memory.items() if t.is_floating_point()}
        inverse = torch.full((sum(t.numel() for t in floats.values()),), -1, dtype=torch.long)
        inverse[source] = torch.arange(len(source))
        start = 0
        for key, tensor in floats.items():
            place = inverse[start : start + tensor.numel()].view(tensor.shape)
            start += tensor.numel()
            if bool((place >= 0).all()):
                self._places[key] = place

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The tensors that the model has now, by the names that files have: its buffers may have been replaced."""
        memory = self.model.state_dict(keep_vars=True)
        return {name: memory[key] if key else self._own(name) for name, key in self._keys.items()}

    def _own(self, name: str) -> Tensor:
        return self.get_parameter(name.replace(".", "/"))

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Any:
        """The parameters by the names that files have."""
        return ((name, t) for name, t in self.state_dict().items() if isinstance(t, nn.Parameter))

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        """The modules of the model, by the names that files have for what is in them."""
        return ((name.removeprefix(self._prefix), part) for name, part in self.model.named_modules(*args, **kwargs))

    def forward(self, **inputs: Any) -> Any:
        """The logits or embeddings where there are some; otherwise all outputs but caches and hidden states.

        What the model draws at random, such as the patches that an autoencoder masks, is the same in every run.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self._outputs(**inputs)

    def _outputs(self, **inputs: Any) -> Any:
        if self._made:
            flat = torch.cat([self._own(name).flatten() for name in self._made])
            gathered = {key: flat[place] for key, place in self._places.items()}
            outputs = torch.func.functional_call(self.model, gathered, (), inputs)
        else:
            outputs = self.model(**inputs)
        encode: Any = getattr(self.model, "encode", None)
        if encode is not None and isinstance(inputs.get("sample"), Tensor):
            latents = encode(inputs["sample"])
            return {"sample": outputs.sample, "latents": getattr(latents, "latent_dist", latents).parameters}
        return answers(outputs)


def answers(outputs: Any) -> Any:
    """What a model is asked for: all but caches and inner states, and the last state where there is nothing else."""
    if not isinstance(outputs, Mapping):
        return outputs
    asked = {k: v for k, v in outputs.items() if not k.endswith(_HIDDEN)}
    if any(k.endswith(("logits", "_embeds")) or k.startswith("logits_per") for k in asked):
        return asked
    return {k: v for k, v in outputs.items() if k == "last_hidden_state" or k in asked} or outputs


def saved_shapes(model: nn.Module, *, as_saved: bool = True) -> dict[str, tuple[int, ...]]:
    """The shapes that a model's tensors have in its files."""
    state = {k: t for k, t in model.state_dict().items() if isinstance(t, Tensor)}
    return {key: tuple(t.shape) for key, t in (_as_saved(model, state) if as_saved else state).items()}


def _as_saved(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    if not hasattr(model, "base_model_prefix"):
        return state
    conversions = getattr(library("transformers"), "core_model_loading", None)
    with on_files_of_others("transformers cannot say how the model's tensors are saved", _REMEDY):
        revert = getattr(conversions, "revert_weight_conversion", None)
        return dict(revert(model, state)) if revert else state


def _files(model: nn.Module, memory: Mapping[str, Tensor], as_saved: bool) -> dict[str, str | Tensor]:
    """By the keys of files: the key of the same tensor in memory, or the place of every entry among all of those.

    Raises:
        ContentError: an entry of the model is saved several times, or not at all.
    """
    if not as_saved:
        return {key: key for key in memory}
    numbers: dict[str, Tensor] = {}
    start = 0
    for key, tensor in memory.items():
        if tensor.is_floating_point():
            end = start + tensor.numel()
            numbers[key] = torch.arange(start, end, dtype=torch.float64).view(tensor.shape)
            start = end
    others = {key: key for key, tensor in memory.items() if not tensor.is_floating_point()}
    first = {(n.flatten()[0].item(), n.shape): key for key, n in numbers.items() if n.numel()}
    found: dict[str, str | Tensor] = dict(others)
    seen: list[Tensor] = []
    starts: dict[str, int] = {}
    for key, value in _as_saved(model, dict(numbers)).items():
        starts[key] = int(value.min()) if value.numel() else start
        same = first.get((value.flatten()[0].item(), value.shape)) if value.numel() else None
        found[key] = same if same is not None and torch.equal(numbers[same], value) else value.long()
        seen.append(value.flatten())
    every = torch.cat(seen).long()
    if len(every) != start or len(set(every.tolist())) != start:
        raise ContentError("the model's files hold its tensors in a form that cannot be followed", remedy=_REMEDY)
    return {key: found[key] for key in sorted(found, key=lambda key: starts.get(key, start))}
