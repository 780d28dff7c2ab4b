"""Networks of transformers, built from the config.json beside a checkpoint; nothing is fetched, no remote code run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.evaluation.libraries import MODULES, from_folder, library, on_files_of_others, whole_numbers
from rebasin_cli.evaluation.networks.module_network import ModuleNetwork
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
_TOGETHER = "config.json and checkpoint must belong together; or name your own network with --network"
_NEWER = "install a version that has it, or name the network with --network"

_FEW = 256
_TIMES, _SMALL = 4, 1 << 26  # weights beyond the checkpoint's: tied ones, tables of positions and masks


class PretrainedNetwork(ModuleNetwork):
    """A model of transformers; checkpoints go through its own loader, which knows the names that files have."""

    def load(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The model's tensors for a state dict with the names that files have; floats in float32.

        Raises:
            ContentError: a tensor is missing, or tied ones are not equal (the loader would take one of them).
        """
        model = build_model(type(self.module), self.module.config, state)
        self.module = model.to(device=device, dtype=torch.float32).eval()
        self.tied = tied_names(self.module)
        joined(self.family, self.tied, {name: state[name] for group in self.tied for name in group if name in state})
        tensors = (*self.module.named_parameters(), *self.module.named_buffers())  # of tied ones the first name alone
        return {name: tensor.detach() for name, tensor in tensors}


def pretrained_network(config: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> PretrainedNetwork:
    """The model that a config.json names under `architectures`.

    Raises:
        UsageError: transformers is not installed.
        ContentError: it has no such class, no class that answers with classes or tokens, or other tensors; or it
            cannot build what the folder describes.
    """
    name = architecture_of(config)
    answers = next((asked for ending, asked in _ANSWERS.items() if name.endswith(ending)), None)
    if answers is None:
        raise ContentError(
            f"config.json names the architecture {name}, which has no loss that can be measured here",
            where=str(folder),
            remedy="language models (causal, masked) and image classifiers have one; for others --network or "
            "--eval-command",
        )
    try:
        model_class = class_named(name, folder)
    except UsageError as error:
        raise UsageError(
            "evaluating a Hugging Face folder needs transformers, which cannot be imported",
            remedy="pip install 'rebasin-cli[hf]'; or name your own network with --network",
        ) from error
    model = build_model(model_class, config_of(model_class, folder, state), state, folder=folder)
    is_text = answers != "example"
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    return PretrainedNetwork(
        name, model, shapes, "",
        argument="input_ids" if is_text else "pixel_values",
        batch_size=TEXT_BATCH if is_text else 64,
        answers=answers,
    )  # fmt: skip


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class that a config.json names first; "none" if it names none."""
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else "none"


def class_named(name: str, folder: Path) -> Any:
    """A model class of transformers.

    Raises:
        UsageError: transformers is not installed. ContentError: it has no such class.
    """
    transformers = library("transformers")
    with on_files_of_others(f"transformers has no {name} that can be used", _NEWER, folder):
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    raise ContentError(f"transformers {transformers.__version__} has no model {name}", where=str(folder), remedy=_NEWER)


def config_of(model_class: Any, folder: Path, state: Mapping[str, Tensor]) -> Any:
    """The config of a folder, if it describes a model of about the checkpoint's size.

    Raises:
        ContentError: it cannot be loaded, or its model would be far larger: building that would fill the memory.
    """
    made = from_folder("AutoConfig", folder)
    with on_files_of_others("the folder's config.json cannot be followed", _TOGETHER, folder):
        numbers = list(whole_numbers(made.to_dict()))
    for name, value in numbers:
        if MODULES.search(name) and value > max(len(state), _FEW):
            what = f"config.json has {name} = {value}, and the checkpoint has {len(state)} tensors"
            raise ContentError(what, where=str(folder), remedy=_TOGETHER)
    try:
        with torch.device("meta"):  # nothing is allocated
            model = model_class(made)
    except Exception:  # it computes with values while it is built; what is wrong with it, its loader says
        return made
    numel, there = sum(t.numel() for t in (*model.parameters(), *model.buffers())), _numel(state)
    if numel > _TIMES * there + _SMALL:
        what = f"the network of config.json has {numel:,} weights, and the checkpoint has {there:,}"
        raise ContentError(what, where=str(folder), remedy=_TOGETHER)
    return made


def _numel(state: Mapping[str, Tensor]) -> int:
    """Numbers in all tensors, which are not read for it where headers tell."""
    infos = getattr(state, "infos", None)
    return sum(info.numel for info in infos.values()) if infos else sum(t.numel() for t in state.values())


def build_model(
    model_class: Any, config: Any, state: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, *,
    folder: Path | None = None,
) -> Any:  # fmt: skip
    """A model with these tensors, by the loader of transformers, which knows the names that files have.

    Raises:
        ContentError: it cannot be built, or a tensor is missing.
    """
    name = model_class.__name__
    with on_files_of_others(f"transformers cannot build {name} with the checkpoint's tensors", _TOGETHER, folder):
        model, report = model_class.from_pretrained(
            None, config=config, state_dict=dict(state), output_loading_info=True, torch_dtype=dtype,
            local_files_only=True, trust_remote_code=False,
        )  # fmt: skip
    if missing := sorted(report["missing_keys"]):
        raise ContentError(
            f"{name} has {len(missing)} tensors that the checkpoint has not: {', '.join(missing[:4])}",
            where="" if folder is None else str(folder),
            remedy=_TOGETHER,
        )
    return model
