"""Smaller configs of the same network: every size small, and different from every other one that may differ."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

Config = Mapping[str, Any]

LAYERS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN = "layers", "heads", "key/value heads", "head dim", "hidden"

_ROLES: tuple[tuple[str, str], ...] = (
    ("left", r"vocab_size_per|type_vocab|^num_(parallel|beam|return)|max_window_layers|_drop|feature_layer|per_block"),
    ("dense layers", r"^first_k_dense|_dense_layers$"),
    ("expert groups", r"^n_group$|^num_expert_groups?$"),
    ("chosen", r"experts_per_tok(en)?$|experts_per_token$|moe_top_?k$|^num_selected|^top_?k(_experts)?$"),
    ("experts", r"(num|n)_(local_|routed_)?experts$|moe_num_experts$"),
    ("layer kinds", r"^(layer_types|layers_block_type|attention_layers|mlp_layer_types)$"),
    (LAYERS, r"^(n_layers?|depths?)$|(num|_)_?(hidden_|single_|encoder_|decoder_)?layers$"),
    (KV_HEADS, r"^(num_key_value_heads|n_head_kv|num_kv_heads|n_kv_heads|n_groups)$"),
    (HEAD_DIM, r"head_dim$|^d_kv$|^d_head$|^kv_channels$|^attention_head_size$"),
    (HEADS, r"heads?$"),
    ("rotary", r"^rotary_(dim|ndims)$"),
    ("inner", r"intermediate_size$|ffn_dim$|^[nd]_inner$|^d_ff$|^mlp_dim$|ffn_hidden|feed_forward|expert_[ih]"),
    ("projection", r"projection_dim$|pooled_projection"),
    (
        HIDDEN,
        r"hidden_sizes?$|^d_model$|^n_embd$|hidden_dim$|embed(ding)?_(dim|size)$|_proj_dim$|^dim$|_attention_dim$",
    ),
    ("vocabulary", r"vocab_size$|^num_vector_embeds$"),
    ("positions", r"position(_embedding)?s$|^n_ctx$|max_seq(uence)?_len"),
    ("rank", r"_rank$|^state_size$"),
    ("image", r"^(image|sample)_size$"),
    ("patch", r"^patch_size$"),
    ("mels", r"^num_mel_bins$"),
    ("window", r"window"),
    ("groups", r"^norm_num_groups$|_conv_pos_embedding_groups$"),
    ("channels", r"^(block_out_channels|embed_dims|conv_channels|conv_dim)$"),
    ("classes", r"^(num_labels|num_classes|num_class_embeds)$"),
    ("token", r"_token_id$|_token_index$|_idx$"),
)
_OF_NAME = tuple((role, re.compile(pattern)) for role, pattern in _ROLES)

_REDUCTION = 4  # of the channels of a bottleneck

WHOLE_MODEL = ("groups", "image", "patch", "window", "mels")  # one value for all parts of a config


_OF_STAGES = ("stage_names", "out_features", "out_indices")  # named by the number of layers, which the class knows


def role_of(name: str) -> str:
    """What a field of a config counts; empty where it is not known."""
    return next((role for role, pattern in _OF_NAME if pattern.search(name)), "")


@dataclass(frozen=True, slots=True)
class Scale:
    """How small.

    Attributes:
        layers: of every stack; heads, head_dims: of the first part of a config, then of the others.
        apart: whether the hidden size is another number than heads times head dim, where the config says both.
        sizes: by role; a second size of the same role gets the next number that none has.
        per_kv: query heads of one key/value head; step: sizes are multiples of it; ratio: channels of a group, and the
        smallest of a list of sizes.
        keep: roles that stay as they are.
    """

    name: str
    layers: int
    heads: tuple[int, ...]
    head_dims: tuple[int, ...]
    sizes: Mapping[str, int]
    per_kv: int = 2
    apart: bool = True
    step: int = 1
    ratio: int = 3
    keep: frozenset[str] = frozenset()


_A = {"inner": 13, "projection": 11, "vocabulary": 19, "positions": 22, "rank": 5, "image": 4, "patch": 2, "mels": 7,
      "window": 32, "groups": 2, "experts": 5, "expert groups": 2, "classes": 5}  # fmt: skip
_B = {"inner": 17, "projection": 14, "vocabulary": 23, "positions": 26, "rank": 6, "image": 9, "patch": 3, "mels": 10,
      "window": 40, "groups": 4, "experts": 6, "expert groups": 4, "classes": 7}  # fmt: skip
_ROUND_A = {"inner": 48, "projection": 40, "vocabulary": 56, "positions": 64, "rank": 8, "image": 16, "patch": 8,
            "mels": 16, "window": 64, "groups": 2, "experts": 4, "expert groups": 2, "classes": 5}  # fmt: skip
_ROUND_B = {"inner": 72, "projection": 56, "vocabulary": 80, "positions": 96, "rank": 16, "image": 24, "patch": 8,
            "mels": 24, "window": 96, "groups": 4, "experts": 8, "expert groups": 4, "classes": 7}  # fmt: skip

_TELLING = Scale("all sizes apart", 2, (3, 5, 7), (4, 6, 10), _A), Scale("", 3, (4, 6, 5), (6, 8, 14), _B, 3, ratio=2)
_TOGETHER = tuple(replace(one, name="hidden = heads × head dim", apart=False) for one in _TELLING)
_GROUPED = tuple(replace(one, name="groups as they are", apart=False, keep=frozenset({"groups"})) for one in _TELLING)
_WIDE = (
    Scale("wider heads", 2, (3, 5, 7), (8, 16, 32), _A, apart=False),
    Scale("", 3, (4, 6, 5), (16, 24, 40), _B, 3, apart=False, ratio=2),
)
_ROUND = (
    Scale("round sizes", 2, (4, 2, 8), (8, 16, 24), _ROUND_A, apart=False, step=8, ratio=2),
    Scale("", 3, (2, 4, 6), (16, 24, 32), _ROUND_B, 4, apart=False, step=8, ratio=4),
)
_FOURS = (
    Scale("heads in fours", 2, (8, 16, 24), (4, 6, 10), _A, apart=False),
    Scale("", 3, (12, 20, 28), (6, 8, 14), _B, 3, apart=False, ratio=2),
)

SCALES: tuple[tuple[Scale, ...], ...] = (_TELLING, _TOGETHER, _WIDE, _GROUPED, _ROUND, _FOURS)
"""What is tried, the most telling first: the instance that is derived on, and the one that confirms it."""


@dataclass(slots=True)
class _Small:
    """The sizes given so far, by role and real value: what is equal in the real config stays equal."""

    scale: Scale
    given: dict[tuple[str, Any], int] = field(default_factory=dict)

    def of(self, role: str, real: int, multiple: int = 1) -> int:
        """A size for a role."""
        if (role, real) not in self.given:
            start, taken = self.scale.sizes.get(role, 9), set(self.given.values())
            step = multiple if multiple > 1 else self.scale.step
            first = math.ceil(start / step) * step
            self.given[role, real] = next(n for n in count(first, step) if n not in taken or role in WHOLE_MODEL)
        return self.given[role, real]


def smaller(config: Config, scale: Scale) -> dict[str, Any]:
    """A config with every known size made small."""
    return _part(config, _Small(scale), iter(range(99)))


def _part(config: Config, small: _Small, parts: Iterator[int]) -> dict[str, Any]:
    scale, made = small.scale, dict(config)
    number = next(parts) if any(role_of(name) == HEADS for name in config) else 0
    roles = {name: role_of(name) for name, value in config.items() if _is_size(value) or _are_sizes(value)}
    roles = {name: role for name, role in roles.items() if role not in scale.keep}
    made |= _heads(config, roles, scale, number)
    made |= {
        n: _in_ratio(config[n], config, small, HEADS) for n in roles if roles[n] == HEADS and _are_sizes(config[n])
    }
    by_role = {role: [n for n in roles if roles[n] == role] for role in set(roles.values())}
    many = next((_first(made[n]) for n in by_role.get(HEADS, ())), 1)
    dim = _head_dim(config, scale, number)
    said = [n for n in by_role.get(HEAD_DIM, ()) if _is_size(config[n])]
    for name in said:
        if "block_out_channels" in config:  # divides the channels of every level
            made[name] = scale.ratio
            continue
        made[name] = dim if config[name] == config[said[0]] else small.of("head dim", config[name], 2)
    for name, role in roles.items():
        real = config[name]
        if role == "projection" and real == _product(config, by_role):
            made[name] = many * dim
        elif role == HIDDEN and _is_size(real):
            main = next(config[n] for n in by_role[HIDDEN] if _is_size(config[n]))
            first = many * (dim + 1 + dim % 2) if said and scale.apart else many * dim
            expanded, rest = divmod(_product(config, by_role), main)  # heads on several times the hidden size
            if not scale.apart and not rest and expanded > 1 and many * dim % expanded == 0:
                first = many * dim // expanded
            made[name] = first if real == main else small.of(f"hidden {number}", real, many)
        elif role == LAYERS:
            made[name] = min(real, scale.layers) if _is_size(real) else [min(n, scale.layers) for n in real]
        elif role == "rotary":
            made[name] = dim if real == config.get(said[0] if said else "", -1) else dim // 2 + dim // 2 % 2
        elif role == "channels" or (_are_sizes(real) and role in (HEAD_DIM, HIDDEN)):
            made[name] = _in_ratio(real, config, small, role)
        elif role == "image":
            made[name] = _side(config, small) if _is_size(real) else [_side(config, small)] * len(real)
        elif role in ("patch", "window", "mels", "groups", "classes", "experts", "inner", "projection", "vocabulary",
                      "positions", "rank") and _is_size(real):  # fmt: skip
            made[name] = min(real, _of_image(config, small) if role == "window" else small.of(role, real))
        elif role == "chosen":
            made[name] = min(real, 2)
        elif role == "dense layers":
            made[name] = min(real, 1)
    _group_experts(config, made, by_role, small)
    _cut_lists(config, made, small)
    _clamp_tokens(made)
    made = {name: value for name, value in made.items() if name not in _OF_STAGES}
    for name, value in config.items():
        if name.endswith("_config") and isinstance(value, Mapping):
            made[name] = _part(value, small, parts)
    return made


def _group_experts(config: Config, made: dict[str, Any], by_role: Mapping[str, list[str]], small: _Small) -> None:
    """Experts in as many groups, of which some are chosen where some are."""
    for name in by_role.get("expert groups", ()):
        groups = min(config[name], small.scale.sizes["expert groups"])
        made[name] = groups
        if groups > 1:
            made |= {n: small.of("grouped experts", config[n], groups) for n in by_role.get("experts", ())}
        if _is_size(config.get("topk_group")):
            made["topk_group"] = groups if config["topk_group"] == config[name] else 1


def _product(config: Config, by_role: Mapping[str, list[str]]) -> int:
    """Heads times head dim, where the config says both."""
    said = [config[by_role[role][0]] if by_role.get(role) else 0 for role in (HEADS, HEAD_DIM)]
    return int(math.prod(said)) if not any(isinstance(value, list) for value in said) else 0


def _first(value: int | list[int]) -> int:
    return value[0] if isinstance(value, list) else value


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_size, value))


def _heads(config: Config, roles: Mapping[str, str], scale: Scale, number: int) -> dict[str, int]:
    """Heads and key/value heads, with as many of one for the other as there may be."""
    reals = list(dict.fromkeys(config[n] for n, role in roles.items() if role == HEADS and _is_size(config[n])))
    kv = [n for n, role in roles.items() if role == KV_HEADS and _is_size(config[n])]
    made = {}
    for name, role in roles.items():
        if role == HEADS and _is_size(config[name]) and config[name] > 1:
            of_kind = scale.heads[(number + reals.index(config[name])) % len(scale.heads)]
            shared = any(1 < config[k] < config[name] for k in kv)
            made[name] = of_kind * scale.per_kv if shared else of_kind
            made |= {k: of_kind if config[k] > 1 else 1 for k in kv}
    return made


def _head_dim(config: Config, scale: Scale, number: int) -> int:
    """Of which a rotary embedding turns an even part, and not all of it where it does not turn all."""
    dim = scale.head_dims[number % len(scale.head_dims)]
    rotary = {**config, **(config.get("rope_parameters") or {})}
    parts = [
        value for name, value in rotary.items() if isinstance(value, float) and 0 < value < 1 and
        re.search(r"rotary|partial", name)
    ]  # fmt: skip
    for part in parts:
        while (dim * part) % 2:
            dim += 2
    return dim


def _in_ratio(real: list[int], config: Config, small: _Small, role: str) -> list[int]:
    """Sizes with the ratios of the real ones, so that they meet in the same places."""
    groups = config.get("norm_num_groups") or 1
    unit = groups if "groups" in small.scale.keep else min(groups, small.of("groups", groups))
    common = math.gcd(*real)
    heads = next((many for n, many in config.items() if role_of(n) == HEADS and _are_sizes(many)), None)
    base = unit * small.scale.ratio if role == "channels" else small.scale.heads[0]
    if heads is not None and min(heads) == 1 and role != "channels":  # a stage with one head keeps it
        base = 1
    if role == HIDDEN:
        base *= small.scale.head_dims[0] if heads is not None else _REDUCTION
    return [base * n // common for n in real]


def _of_image(config: Config, small: _Small) -> int:
    """A window: of patches as many as an image has on its smallest level; of tokens more than there are."""
    sizes = small.scale.sizes
    return sizes["image"] // sizes["patch"] if "patch_size" in config else sizes["window"]


def _side(config: Config, small: _Small) -> int:
    """The side of an image of two or three patches, or of what a network of convolutions halves at each level."""
    patch, depths = config.get("patch_size"), config.get("depths")
    if _is_size(patch):
        patches = small.scale.sizes["image"] // small.scale.sizes["patch"]
        levels = len(depths) if isinstance(depths, list) else 1
        return small.of("patch", int(patch or 1)) * (patches << levels - 1)
    if isinstance(depths, list):
        return 4 << len(depths)
    return 1 << max(3, len(config.get("block_out_channels", ())))


def _cut_lists(config: Config, made: dict[str, Any], small: _Small) -> None:
    """Lists with an entry for every layer: each kind of layer as often as there are layers of each."""
    layers = [n for n in config if role_of(n) == LAYERS and _is_size(config[n])]
    kinds = [n for n in config if role_of(n) == "layer kinds" and isinstance(config[n], list) and config[n]]
    for length in {config[n] for n in layers} | {len(config[n]) for n in kinds}:
        lists = [n for n, value in config.items() if isinstance(value, list) and len(value) == length]
        entries = [*zip(*(map(str, config[n]) for n in lists), strict=True)]
        chosen = [entries.index(entry) for entry in dict.fromkeys(entries)] * small.scale.layers
        if len(chosen) >= length:
            chosen = [*range(length)]
        made |= {n: [made[n][at] for at in chosen] for n in lists}
        made |= {n: len(chosen) for n in layers if config[n] == length and lists}
    labels = config.get("id2label")
    if isinstance(labels, Mapping) and len(labels) > small.scale.sizes["classes"]:
        made["id2label"] = dict(list(labels.items())[: small.scale.sizes["classes"]])
        made["label2id"] = {str(name): int(at) for at, name in made["id2label"].items()}


def _clamp_tokens(made: dict[str, Any]) -> None:
    """Numbers of special tokens that the vocabulary has, from its end: most are told from 0, 1 and 2."""
    vocabulary = next((made[n] for n in made if role_of(n) == "vocabulary" and _is_size(made[n])), 0)
    said = {n: v if isinstance(v, list) else [v] for n, v in made.items() if role_of(n) == "token"}
    far = sorted({v for values in said.values() for v in values if _is_size(v) and v >= vocabulary})
    for name, values in said.items() if vocabulary else ():
        near = [max(0, vocabulary - 1 - far[::-1].index(v)) if v in far else v for v in values]
        made[name] = near if isinstance(made[name], list) else near[0]
