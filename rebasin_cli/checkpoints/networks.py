"""Which network of a file is read: the one that KEY of `FILE:KEY` names, else the obvious one, else an error.

A network is a mapping with tensors in it. Training scripts put it in others (`{"model": {"state_dict": ...}}`),
together with its moving average or other networks. If it is not clear which is meant, the error names the choices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rebasin_cli.checkpoints.archives import RESAVE
from rebasin_cli.checkpoints.inert import Global, Thing
from rebasin_cli.checkpoints.stored import is_tensor
from rebasin_cli.errors import ContentError
from rebasin_cli.safe_text import one_line, shell_word

# Where training scripts put the state dict.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
_AVERAGE = re.compile(r"(?:^|[_.])(?:ema|swa|avg|average|averaged|shadow|polyak)(?:$|[_.\d])", re.IGNORECASE)
# Names of mappings with tensors that are not networks.
_BESIDE = re.compile(r"optim|sched|scaler|^amp$|^rng|^loops$|callback|metric|^loss|_loss$|criterion", re.IGNORECASE)
_DEPTH = 4  # {"model": {"state_dict": {"module": {...}}}} is known, deeper nesting is not
_VISITS = 20_000  # mappings that are searched: with references a small file can have any number
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Network:
    """A network in a file.

    Attributes:
        keys: the path of keys to it.
        tensors: how many tensors it has.
        holder: the mapping.
    """

    keys: tuple[str, ...]
    tensors: int
    holder: Any

    @property
    def name(self) -> str:
        """`model.encoder`."""
        return ".".join(self.keys)

    @property
    def is_average(self) -> bool:
        """Whether its name says that it is a moving average of weights."""
        return bool(_AVERAGE.search(self.name))


@dataclass(frozen=True, slots=True)
class Chosen:
    """The network that is read, the mappings around it from the outermost on, and notes for the user."""

    network: Network
    around: tuple[Any, ...]
    notes: tuple[str, ...]


def choose_network(root: Any, key: str | None, where: str, path: str) -> Chosen:
    """Choose the network of a file; errors name the file as `where` and advise with `path`.

    Raises:
        ContentError: none there, several of which none is obvious, or none under `key`; the choices are named.
    """
    start: tuple[str, ...] = ()
    value = root
    everything = _networks(root, (), _Budget(where))
    if key is not None:
        found = _resolve(root, key)
        if found is None:
            named = [network for network in everything if network.keys]
            raise ContentError(
                f"the file has no {shown(key)!r}; it has {_listed(named) or 'one network, under no name'}",
                where=where,
                remedy=f"name one of them: {_words(named, path)}"
                if named
                else f"leave the key away: {shell_word(path)}",
            )
        start, value = found
        everything = _networks(value, start, _Budget(where))
    if not everything:
        raise _no_network(value, key, where)
    network = _obvious(everything, len(start))
    if network is None:
        raise ContentError(
            f"the file holds {len(everything)} networks, and which is meant is not said: {_listed(everything)}",
            where=where, remedy=f"name one of them: {_words(everything, path)}",
        )  # fmt: skip
    around = _around(root, network.keys)
    return Chosen(network, around, _notes(network, around, len(start), everything, path))


def named_networks(root: Any, where: str) -> tuple[str, ...]:
    """The names of all networks in a file that have one."""
    return tuple(network.name for network in _networks(root, (), _Budget(where)) if network.keys)


def entries(value: Any) -> Mapping[Any, Any] | None:
    """The items of a mapping, also of an OrderedDict or another subclass of dict; None for anything else."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Thing):
        return None
    if value.pairs:
        return value.pairs
    if value.kind.endswith("OrderedDict"):  # Python 2 gave it its items as arguments
        items = value.args[0] if value.args and isinstance(value.args[0], list) else []
        return {i[0]: i[1] for i in items if isinstance(i, list | tuple) and len(i) == 2 and isinstance(i[0], str)}
    return None


def describe(value: Any) -> str:
    """The kind of a value in a word: `int`, `argparse.Namespace`."""
    if is_tensor(value):
        return "tensor"
    if isinstance(value, Thing):
        return shown(value.kind) or "object"
    return f"class {shown(value.text)}" if isinstance(value, Global) else type(value).__name__


def shown(name: object, limit: int = 80) -> str:
    """A name from a file, on one line and of a sensible length; of anything but text and numbers, what it is."""
    text = name if isinstance(name, str) else str(name) if isinstance(name, int | float) else describe(name)
    return one_line(text, limit)


def listed(names: list[str], limit: int = _SHOWN) -> str:
    """`a, b, c and 4 more`."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


class _Budget:
    def __init__(self, where: str) -> None:
        self._left, self._where = _VISITS, where

    def spend(self) -> None:
        """Count one more mapping that is searched."""
        self._left -= 1
        if self._left < 0:
            raise ContentError("the file nests its contents too widely to be looked through", where=self._where,
                               remedy=RESAVE)  # fmt: skip


def _inside(value: Any) -> Mapping[str, Any]:
    """The entries of a mapping, or those of a list by their numbers."""
    if isinstance(value, list | tuple):
        return {str(i): entry for i, entry in enumerate(value[:_VISITS])}
    return {str(key): entry for key, entry in (entries(value) or {}).items() if isinstance(key, str | int)}


def _networks(value: Any, keys: tuple[str, ...], budget: _Budget) -> list[Network]:
    """All networks in a value, from the outside in; mappings inside a network belong to it.

    A mapping with tensors and mappings is a network if it has more tensors than they have, and if none of them has a
    name that wrappers have: a tensor next to `state_dict` may be the best score.
    """
    inside = _inside(value)
    budget.spend()
    if "param_groups" in inside:  # an optimizer
        return []
    within: list[Network] = []
    for key, entry in inside.items() if len(keys) < _DEPTH else ():
        if isinstance(entry, dict | list | tuple | Thing) and not is_tensor(entry) and not _BESIDE.search(key):
            within += _networks(entry, (*keys, key), budget)
    tensors = 0 if isinstance(value, list | tuple) else sum(map(is_tensor, inside.values()))
    wrapped = any(_is_usual(network.keys[len(keys)]) for network in within)
    if tensors and not wrapped and tensors >= max((network.tensors for network in within), default=0):
        return [Network(keys, tensors, value)]
    return within


def _is_usual(key: str) -> bool:
    return key in WRAPPERS or bool(_AVERAGE.search(key))


def _obvious(networks: list[Network], named: int) -> Network | None:
    """The obvious network: the only one, or the only one under a usual name; averages come last.

    Args:
        named: how many of the first keys the user named.
    """
    main = [network for network in networks if not network.is_average] or networks
    usual = [network for network in main if set(network.keys[named:]) <= set(WRAPPERS)]
    for candidates in (main, usual):
        if candidates and all(network.holder is candidates[0].holder for network in candidates):
            return candidates[0]
    return None


def _resolve(value: Any, key: str) -> tuple[tuple[str, ...], Any] | None:
    """What `key` names in `value`, and the path to it; a key with dots comes before a path of several keys."""
    inside = _inside(value)
    if key in inside:
        return (key,), inside[key]
    for dot in [match.start() for match in re.finditer(r"\.", key)][:_DEPTH]:
        if key[:dot] in inside:
            found = _resolve(inside[key[:dot]], key[dot + 1 :])
            if found is not None:
                return (key[:dot], *found[0]), found[1]
    return None


def _around(value: Any, keys: tuple[str, ...]) -> tuple[Any, ...]:
    levels = [value]
    for key in keys:
        levels.append(_inside(levels[-1])[key])
    return tuple(levels)


def _notes(chosen: Network, around: tuple[Any, ...], named: int, others: list[Network], path: str) -> tuple[str, ...]:
    """What was taken at each level, where the user did not say it (the first `named`), and how to have the others."""
    notes = []
    for level, key in list(zip(around, chosen.keys, strict=False))[named:]:
        rest = [name + _class_of(value) for name, value in _inside(level).items() if name != key]
        rest = [shown(name) for name in rest]
        notes.append(f"the state dict is {shown(key)!r} of the file" + (f"; left out: {listed(rest)}" if rest else ""))
    for network in others:
        if network.is_average and not chosen.is_average:
            notes.append(f"a moving average of the weights lies beside them: {command_word(path, network)} names it")
    more = [network for network in others if network.holder is not chosen.holder and not network.is_average]
    if more:
        notes.append(f"the file has other networks too: {_words(more, path)}")
    return tuple(notes)


def _class_of(value: Any) -> str:
    plain = not isinstance(value, Thing | Global) or is_tensor(value) or entries(value) is not None
    return "" if plain else f" ({describe(value)})"


def command_word(path: str, network: Network) -> str:
    """`a.pth:teacher`, quoted for a shell where it has to be."""
    return shell_word(f"{path}:{network.name}")


def _words(networks: list[Network], path: str) -> str:
    return listed([command_word(path, network) for network in networks])


def _listed(networks: list[Network]) -> str:
    return listed([f"{shown(n.name)} ({n.tensors} tensor{'' if n.tensors == 1 else 's'})" for n in networks if n.keys])


def _no_network(value: Any, key: str | None, where: str) -> ContentError:
    if key is not None:
        return ContentError(f"{shown(key)!r} of the file is no network: it is {_kind(value)}", where=where,
                            remedy="name the state dict")  # fmt: skip
    if entries(value) is None and not isinstance(value, dict):
        return ContentError(f"the file holds a {describe(value)}, not a state dict", where=where, remedy=RESAVE)
    found = listed([f"{shown(name)} ({describe(entry)})" for name, entry in _inside(value).items()]) or "nothing"
    return ContentError(f"the file has no state dict that we recognise; it has {found}", where=where, remedy=RESAVE)


def _kind(value: Any) -> str:
    inside = _inside(value)
    found = listed([f"{shown(name)} ({describe(entry)})" for name, entry in inside.items()])
    return f"{describe(value)} with {found}" if found else f"{describe(value)}"
