"""Inputs that networks of transformers and diffusers take, made from a config by the names of their arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.errors import ContentError

_REMEDY = "name the network with --network, and its inputs with --inputs"
_EXAMPLES, _TOKENS = 4, 12
_SIDE = 64  # of an image, where a config names none: networks of convolutions take any


def inputs_for(model: nn.Module, config: Mapping[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    """Random inputs that a model may take: all that its forward asks for, with types of tokens, the main ones alone."""
    generator = torch.Generator().manual_seed(seed)
    asked = list(inspect.signature(model.forward).parameters)
    made = {name: _MAKERS[name](config, generator) for name in asked if name in _MAKERS}
    made = {name: value for name, value in made.items() if value is not None}
    main = str(getattr(model, "main_input_name", ""))
    if "decoder_input_ids" in made and not config.get("is_encoder_decoder"):
        del made["decoder_input_ids"]
    yield made
    if "token_type_ids" in asked:
        yield made | {"token_type_ids": (torch.arange(_TOKENS) > _TOKENS // 2).long().expand(_EXAMPLES, -1).clone()}
    alone = {name: value for name, value in made.items() if name in (main, "decoder_input_ids")}
    if alone and alone.keys() != made.keys():
        yield alone


def _of(config: Mapping[str, Any], *names: str) -> Any:
    """The first of some fields that the config or one of its parts has."""
    parts = [config, *(v for k, v in config.items() if k.endswith("_config") and isinstance(v, Mapping))]
    return next((part[name] for name in names for part in parts if part.get(name) is not None), None)


def _ids(config: Mapping[str, Any], generator: torch.Generator) -> Tensor | None:
    """Tokens that are nothing special, and the end after them."""
    vocabulary = _of(config, "vocab_size")
    if vocabulary is None:
        return None
    said = [_of(config, f"{name}_token_id") for name in ("pad", "bos", "eos", "decoder_start")]
    special = {token for one in said for token in (one if isinstance(one, Sequence) else [one])}
    plain = torch.tensor([token for token in range(int(vocabulary)) if token not in special])
    ids = plain[torch.randint(0, len(plain), (_EXAMPLES, _TOKENS), generator=generator)]
    end = said[2][0] if isinstance(said[2], Sequence) and said[2] else said[2]
    if isinstance(end, int) and 0 <= end < int(vocabulary):
        ids[:, -1] = end
    return ids


def _pixels(config: Mapping[str, Any], generator: torch.Generator) -> Tensor | None:
    side, channels = _of(config, "image_size") or _SIDE, _of(config, "num_channels") or 3
    height, width = side if isinstance(side, Sequence) else (side, side)
    return _floats(generator, int(channels), int(height), int(width))


def _seen_by_all(config: Mapping[str, Any], generator: torch.Generator) -> Tensor | None:
    """Of every text the first token, which all others attend to and which attends to all."""
    return (torch.arange(_TOKENS) < 1).long().expand(_EXAMPLES, -1).clone()


def _hidden_patches(config: Mapping[str, Any], generator: torch.Generator) -> Tensor | None:
    """Some patches of every image."""
    side, patch = config.get("image_size"), config.get("patch_size")
    if not isinstance(side, int) or not isinstance(patch, int):
        return None
    many = (side // patch) ** 2
    return torch.rand(_EXAMPLES, many, generator=generator) < 1 / 3


def _waves(config: Mapping[str, Any], generator: torch.Generator) -> Tensor | None:
    """Sound: of some frames, where convolutions make frames of it, or as a spectrogram."""
    strides, mels, length = (config.get(name) for name in ("conv_stride", "num_mel_bins", "max_length"))
    if isinstance(strides, Sequence):
        return _floats(generator, math.prod(strides) * _TOKENS)
    return None if mels is None or length is None else _floats(generator, int(length), int(mels))


def _sample(config: Mapping[str, Any], generator: torch.Generator) -> Tensor | None:
    side = config.get("sample_size")
    channels = config.get("in_channels")
    if side is None or channels is None:
        return None
    height, width = side if isinstance(side, Sequence) else (side, side)
    return _floats(generator, int(channels), int(height), int(width))


def _context(config: Mapping[str, Any], generator: torch.Generator) -> Tensor | None:
    width = _of(config, "cross_attention_dim", "joint_attention_dim", "caption_channels")
    width = width[0] if isinstance(width, Sequence) else width
    return None if width is None or "_class_name" not in config else _floats(generator, 5, int(width))


def _features(config: Mapping[str, Any], generator: torch.Generator) -> Tensor | None:
    mels, length = config.get("num_mel_bins"), config.get("max_source_positions")
    return None if mels is None or length is None else _floats(generator, int(mels), 2 * int(length))


def _labels(config: Mapping[str, Any], generator: torch.Generator) -> Tensor | None:
    many = _of(config, "num_class_embeds", "num_embeds_ada_norm")
    return None if many is None else torch.randint(0, int(many), (_EXAMPLES,), generator=generator)


def _times(config: Mapping[str, Any], generator: torch.Generator) -> Tensor | None:
    if "_class_name" not in config:
        return None
    return torch.randint(1, 900, (_EXAMPLES,), generator=generator).double()


def _pooled(config: Mapping[str, Any], generator: torch.Generator) -> Tensor | None:
    width = config.get("pooled_projection_dim")
    return None if width is None else _floats(generator, int(width))


def _added(config: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor] | None:
    if config.get("addition_embed_type") != "text_time":
        return None
    width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    times = torch.randint(1, 900, (_EXAMPLES, 6), generator=generator).double()
    return {"text_embeds": _floats(generator, int(width)), "time_ids": times}


def _floats(generator: torch.Generator, *shape: int) -> Tensor:
    if math.prod(shape) > 1 << 24:
        raise ContentError(f"inputs of {' × '.join(map(str, shape))} are too large to try", remedy=_REMEDY)
    return torch.randn(_EXAMPLES, *shape, generator=generator, dtype=torch.float64)


_MAKERS: Mapping[str, Callable[[Mapping[str, Any], torch.Generator], Any]] = {
    "input_ids": _ids, "decoder_input_ids": _ids, "pixel_values": _pixels, "input_features": _features,
    "input_values": _waves, "global_attention_mask": _seen_by_all, "bool_masked_pos": _hidden_patches,
    "sample": _sample, "hidden_states": _sample, "timestep": _times, "encoder_hidden_states": _context,
    "class_labels": _labels, "pooled_projections": _pooled, "added_cond_kwargs": _added,
}  # fmt: skip
