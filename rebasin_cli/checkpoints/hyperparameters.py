"""Head counts that a training script saved with the weights, used in place of a config.json.

Only plain values are taken: numbers, text, truth values, short lists of them, and mappings of those, also out of
argparse's Namespace, Lightning's AttributeDict, omegaconf and the like, whose classes are never imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rebasin_cli.checkpoints.inert import Thing
from rebasin_cli.checkpoints.networks import entries, listed, shown
from rebasin_cli.checkpoints.reader import FileConfig

_SOURCES = re.compile(r"arg|conf|cfg|param|^opts?$|^options$|^dims$|hyper|hparam|settings", re.IGNORECASE)
_HEADS = re.compile(r"^(?:n|num)_?(?:\w+_)?heads?(?:_kv)?$|^\w+_heads$|^(?:attention_)?head_dim$")
# One count has many names; specs ask for it by these.
_ALIASES = ("num_attention_heads", "n_head", "n_heads", "num_heads", "nhead", "nheads", "attention_heads")
_ASKED = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_CONTENTS = ("_content", "_fields")  # where omegaconf and ml_collections keep theirs
_DEPTH = 4
_LIST = 64  # values of a list
_ENTRIES = 2000  # of all mappings together
_INT64 = 1 << 63


def find_config(around: Sequence[Any]) -> FileConfig | None:
    """The mapping with head counts that lies nearest to a network.

    Args:
        around: the mappings from the outermost to the network.
    """
    for level in reversed(around[:-1] or around):
        found: list[tuple[str, dict[str, Any]]] = []
        for key, value in (entries(level) or {}).items():
            if isinstance(key, str) and _SOURCES.search(key):
                plain = _plain(value, _DEPTH, [_ENTRIES])
                if isinstance(plain, dict):
                    found += _with_heads(plain, key)
        if found:
            return _settled(found)
    return None


def _settled(found: list[tuple[str, dict[str, Any]]]) -> FileConfig:
    name, config = found[0]
    heads = {key: value for key, value in config.items() if _HEADS.match(key)}
    other = [n for n, c in found[1:] if any(c.get(key, value) != value for key, value in heads.items())]
    if other:
        return FileConfig(None, f"head counts in the file disagree ({listed([name, *other])}), and were not used")
    told = listed([f"{shown(key)}={shown(value)}" for key, value in heads.items()])
    counts = {config[alias] for alias in _ALIASES if type(config.get(alias)) is int}
    same = dict.fromkeys(_ASKED, counts.pop()) if len(counts) == 1 else {}
    # Which network transformers should build, only a config.json says.
    config = {**same, **{key: value for key, value in config.items() if key != "architectures"}}
    note = f"head counts were taken from {shown(name)!r} of the file, as no config.json says them: {told}"
    return FileConfig(config, note)


def _with_heads(plain: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    """The mapping itself if it has head counts, else those within it that do."""
    if any(_HEADS.match(key) and _is_count(value) for key, value in plain.items()):
        return [(name, plain)]
    return [
        each for key, value in plain.items() if isinstance(value, dict) for each in _with_heads(value, f"{name}.{key}")
    ]


def _is_count(value: Any) -> bool:
    return type(value) is int or (isinstance(value, list) and bool(value) and all(type(v) is int for v in value))


def _plain(value: Any, depth: int, left: list[int]) -> Any:
    """The plain part of a value, None for what is not plain; `left`: entries that may still be looked at."""
    left[0] -= 1
    if left[0] < 0:
        return None
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < _INT64):
        return value
    if isinstance(value, str):
        return value if len(value) <= 1000 else None
    if isinstance(value, list | tuple):
        plain_items = [_plain(item, 0, left) for item in value[:_LIST]]
        return plain_items if len(value) <= _LIST and None not in plain_items else None
    attributes = _attributes(value)
    if depth <= 0 or attributes is None:
        return None
    if isinstance(value, Thing) and "_val" in attributes:
        return _plain(attributes["_val"], depth - 1, left)
    items: dict[str, Any] = {}
    for key, entry in list(attributes.items())[:_ENTRIES]:
        entry = _plain(entry, depth - 1, left) if isinstance(key, str) else None
        if entry is not None:
            items[key] = entry
    return items


def _attributes(value: Any) -> Mapping[Any, Any] | None:
    """A mapping's entries, or an object's attributes."""
    found = entries(value)
    if found is None and isinstance(value, Thing):
        state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        found = state if isinstance(state, dict) else None
    for key in _CONTENTS:
        if isinstance(value, Thing) and found is not None and isinstance(found.get(key), dict):
            return dict(found[key])
    return found
