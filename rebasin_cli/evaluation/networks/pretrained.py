"""Networks of transformers, built from the config.json beside a checkpoint; nothing is fetched, no remote code run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.libraries import from_folder, library
from rebasin_cli.evaluation.networks.modules import ModuleNetwork
from rebasin_cli.evaluation.networks.network import Answers
from rebasin_cli.evaluation.networks.tied import joined, tied_names

_ANSWERS: Mapping[str, Answers] = {
    "ForCausalLM": "next token",
    "LMHeadModel": "next token",
    "ForMaskedLM": "masked token",
    "ForImageClassification": "example",
}
"""What models are asked, by how their class is called."""

TEXT_BATCH = 8

# Numbers of modules, each of which has tensors of its own.
_COUNTS = re.compile(r"layers?$|_depth|^depths?$|blocks?$|stages?$|experts$")
_FEW = 256
_TIMES, _SMALL = 4, 1 << 26  # weights beyond the checkpoint's: tied ones, tables of positions and masks


class PretrainedNetwork(ModuleNetwork):
    """A model of transformers; checkpoints go through its own loader, which knows the names that files have."""

    def load(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The model's tensors for a state dict with the names that files have; floats in float32.

        Raises:
            ContentError: a tensor is missing, or tied ones are not equal (the loader would take one of them).
        """
        model, missing = _built(type(self.module), self.module.config, state)
        if missing:
            raise ContentError(f"{self.family} found no {', '.join(missing[:4])} among the checkpoint's tensors")
        self.module = model.to(device=device, dtype=torch.float32).eval()
        self.tied = tied_names(self.module)
        joined(self.family, self.tied, {name: state[name] for group in self.tied for name in group if name in state})
        tensors = (*self.module.named_parameters(), *self.module.named_buffers())  # of tied ones the first name alone
        return {name: tensor.detach() for name, tensor in tensors}


def pretrained_network(config: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> PretrainedNetwork:
    """The model that a config.json names under `architectures`.

    Raises:
        UsageError: transformers is not installed.
        ContentError: it has no such class, no class that answers with classes or tokens, or other tensors.
    """
    names = config.get("architectures") or ["none"]
    name = str(names[0])
    answers = next((asked for ending, asked in _ANSWERS.items() if name.endswith(ending)), None)
    if answers is None:
        raise ContentError(
            f"config.json names the architecture {name}, which has no loss that can be measured here",
            where=str(folder),
            remedy="language models (causal, masked) and image classifiers have one; for others --network or "
            "--eval-command",
        )
    try:
        transformers = library("transformers")
    except UsageError as error:
        raise UsageError(
            "evaluating a Hugging Face folder needs transformers, which cannot be imported",
            remedy="pip install 'rebasin-cli[hf]'; or name your own network with --network",
        ) from error
    model_class = getattr(transformers, name, None)
    if model_class is None:
        raise ContentError(
            f"transformers {transformers.__version__} has no {name}",
            where=str(folder),
            remedy="install a version that has it, or name the network with --network",
        )
    made = config_of(model_class, folder, state)
    model, missing = _built(model_class, made, state)
    if missing:
        raise ContentError(
            f"{name} has {len(missing)} tensors that the checkpoint has not: {', '.join(missing[:4])}",
            where=str(folder),
            remedy="config.json and checkpoint must belong together",
        )
    is_text = answers != "example"
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    return PretrainedNetwork(
        name, model, shapes, "",
        argument="input_ids" if is_text else "pixel_values",
        batch_size=TEXT_BATCH if is_text else 64,
        answers=answers,
    )  # fmt: skip


def config_of(model_class: Any, folder: Path, state: Mapping[str, Tensor]) -> Any:
    """The config of a folder, if it describes a model of about the checkpoint's size.

    Raises:
        ContentError: it cannot be loaded, or its model would be far larger: building that would fill the memory.
    """
    made = from_folder("AutoConfig", folder)
    remedy = "config.json and checkpoint must belong together"
    for name, value in _numbers(made.to_dict()):
        if _COUNTS.search(name) and value > max(len(state), _FEW):
            what = f"config.json has {name} = {value}, and the checkpoint has {len(state)} tensors"
            raise ContentError(what, where=str(folder), remedy=remedy)
    try:
        with torch.device("meta"):  # nothing is allocated
            model = model_class(made)
    except Exception:  # it computes with values while it is built; what is wrong with it, its loader says
        return made
    numel, there = sum(t.numel() for t in (*model.parameters(), *model.buffers())), _numel(state)
    if numel > _TIMES * there + _SMALL:
        what = f"the network of config.json has {numel:,} weights, and the checkpoint has {there:,}"
        raise ContentError(what, where=str(folder), remedy=remedy)
    return made


def _numel(state: Mapping[str, Tensor]) -> int:
    """Numbers in all tensors, which are not read for it where headers tell."""
    infos = getattr(state, "infos", None)
    return sum(info.numel for info in infos.values()) if infos else sum(t.numel() for t in state.values())


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Every whole number in a config, with its name."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _numbers(inner, name)
    elif isinstance(value, int):
        yield name, value


def _built(model_class: Any, config: Any, state: Mapping[str, Tensor]) -> tuple[Any, list[str]]:
    model, report = model_class.from_pretrained(
        None, config=config, state_dict=dict(state), output_loading_info=True, torch_dtype=torch.float32,
        local_files_only=True, trust_remote_code=False,
    )  # fmt: skip
    return model, sorted(report["missing_keys"])
