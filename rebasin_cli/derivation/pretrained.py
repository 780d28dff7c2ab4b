"""A spec from a folder of transformers or diffusers, for networks of any size.

The search takes time and memory with the size of a network, and finds the same in a small one with the same code. So
the config is made small, the spec derived there, its numbers written as sizes from the config, and that text is proved
on a second small network with other sizes. What is not confirmed is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from rebasin_cli.derivation.candidate import Judge
from rebasin_cli.derivation.derive import Derivation, derive
from rebasin_cli.derivation.fitting import Configs, fitted
from rebasin_cli.derivation.instances import FileNetwork, Source, inputs_for, saved_shapes, source_of
from rebasin_cli.derivation.naming import template_of
from rebasin_cli.derivation.passes import Network
from rebasin_cli.derivation.search import Told
from rebasin_cli.derivation.shrinking import SCALES, Scale, smaller
from rebasin_cli.derivation.writing import Draft, spec_text
from rebasin_cli.errors import ContentError, RebasinError
from rebasin_cli.evaluation.libraries import MODULES, on_files_of_others, whole_numbers
from rebasin_cli.proofs.proof import Proof, prove
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.binder import Request
from rebasin_cli.spec.binding.layout import Layout
from rebasin_cli.spec.language.loading import parse_spec
from rebasin_cli.spec.language.permutation_spec import PermutationSpec

Shapes = Mapping[str, tuple[int, ...]]

_REMEDY = "name a network of its code and of small sizes with --network"
_LARGEST = 10_000_000
"""Parameters of the largest network that a spec is derived on."""
_MOST_MODULES = 2_000  # of a model that is built to see its shapes
_PASSES = 150  # of a network with two layers, about


class _UnfitError(Exception):
    """One way to make a network small does not work."""


@dataclass(frozen=True, slots=True, eq=False)
class _Instance:
    """A small network of the folder's class, with inputs that it runs on."""

    config: Mapping[str, Any]
    network: FileNetwork
    inputs: Mapping[str, Any]
    judge: Judge

    @property
    def shapes(self) -> Shapes:
        return {key: tuple(t.shape) for key, t in self.network.state_dict().items()}

    @property
    def parameters(self) -> int:
        return sum(t.numel() for t in self.network.parameters())


def derive_folder(
    folder: Path, shapes: Shapes | None = None, *, seed: int = 0, seconds: float = 600.0, told: Told | None = None
) -> Derivation:
    """Derive the spec of the network that a folder's config.json describes; the weights are not read.

    Args:
        folder: of transformers or diffusers, with a config.json.
        shapes: of all tensors of its checkpoint, by their keys; without them those that the class would save.
        seconds: after which the search ends with what it has.
        told: hears beforehand how large the network is that is searched.

    Raises:
        UsageError: the library is not installed.
        ContentError: nothing is known of the class, it asks for code of the folder's own, no small network of it can
            be derived on, or what was derived is not confirmed by a second one or does not fit the checkpoint.
    """
    source = source_of(folder)
    with on_files_of_others(f"{source.name} cannot be built from config.json", _REMEDY, folder):
        as_saved, real = _real_shapes(source, shapes)
    end, tried, best = monotonic() + seconds, list[str](), list[Derivation]()
    seen: list[object] = []
    for small, other in SCALES:
        try:
            pair = _instance(source, small, real, as_saved, seed), _instance(source, other, real, as_saved, seed + 1)
            if pair[0].config in seen:
                continue
            seen.append(pair[0].config)
            best.append(_derived(source, pair, real, seed, end - monotonic(), told))
        except (_UnfitError, RebasinError) as error:
            tried.append(f"{small.name}: {str(error).splitlines()[0]}")
        if monotonic() > end or len(best) > 1 or (best and not best[0].held):
            break
    made = min(best, key=lambda made: len(made.held)) if best else None
    if sum(map(_numel, real.values())) <= _LARGEST:
        try:
            whole = _whole(source, real, as_saved, seed)
        except ContentError:
            if made is None:
                raise
            return made
        if made is None or not _holds_on(whole, made, seed):
            return _derived_whole(source, whole, real, seed, end - monotonic(), told)
    if made is not None:
        return made
    raise ContentError(
        f"no spec can be derived for {source.name} on a smaller network of its code",
        where="; ".join(tried),
        remedy=_REMEDY,
    )


def _numel(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


# ---- the networks


def _real_shapes(source: Source, shapes: Shapes | None) -> tuple[bool, Shapes]:
    """Whether the checkpoint has the names that the library saves today, and its shapes by names without prefix."""
    if shapes is None:
        most = max((n for name, n in whole_numbers(source.whole) if MODULES.search(name)), default=0)
        if most > _MOST_MODULES:
            raise ContentError(f"config.json asks for {most} modules of a kind", remedy=_REMEDY)
        with torch.device("meta"):
            return True, _short(saved_shapes(source.make(source.config)), source.prefix)
    short = _short(shapes, source.prefix)
    there = set(map(template_of, short))
    with torch.device("meta"):
        model = source.make(smaller(source.config, SCALES[-1][0]))
    found = {way: _short(saved_shapes(model, as_saved=way), source.prefix) for way in (True, False)}
    best = max((True, False), key=lambda way: len(there & set(map(template_of, found[way]))))
    return best, short


def _short(shapes: Shapes, prefix: str) -> Shapes:
    short = {key.removeprefix(prefix): shape for key, shape in shapes.items()}
    return short if len(short) == len(shapes) else shapes


def _instance(source: Source, scale: Scale, real: Shapes, as_saved: bool, seed: int) -> _Instance:
    """A small network that runs, and has tensors of the same kinds as the real one.

    Raises:
        _UnfitError: there is none at this scale.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = _small_config(source, scale)
            with torch.device("meta"):
                numel = sum(t.numel() for t in source.make(config).parameters())
            if numel > _LARGEST:
                raise _UnfitError(f"{numel:,} parameters are too many")
            network = FileNetwork(source.make(config), source.prefix, as_saved=as_saved)
            judge = _judge(network, source.complete(config), seed)
    except (RebasinError, MemoryError, _UnfitError):
        raise
    except Exception as error:
        raise _UnfitError(_in_a_line(error)) from error
    made = _Instance(config, network, judge.network.inputs, judge)
    _require_same_kinds(made, source, real)
    return made


def _in_a_line(error: Exception) -> str:
    """What a library said: its first line, and the next one where that is its title."""
    lines = [line.strip() for line in str(error).splitlines()] or [""]
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{type(error).__name__}: {said}"


def _small_config(source: Source, scale: Scale) -> dict[str, Any]:
    """The config made small; what it does not say and its class does is said where it would stay large."""
    config = smaller(source.config, scale)
    whole, made = source.complete(config), smaller(source.whole, scale)
    for name, value in made.items():
        if name not in source.config and value != source.whole[name] and whole.get(name) == source.whole[name]:
            config = smaller({**source.config, name: source.whole[name]}, scale) | {
                n: v for n, v in config.items() if n not in source.config
            }
    return config


def _judge(network: FileNetwork, config: Mapping[str, Any], seed: int) -> Judge:
    """The network with the first inputs that it runs on.

    Raises:
        _UnfitError: there are none.
    """
    why = "no inputs are known that it takes"
    for inputs in inputs_for(network.model, config, seed):
        try:
            judge = Judge.of(Network(network, inputs), seed)
        except MemoryError:
            raise
        except Exception as error:
            why = _in_a_line(error)
            continue
        if judge.reference and all(bool(t.isfinite().all()) for t in judge.reference.values()):
            return judge
        why = "the outputs are not finite"
    raise _UnfitError(why)


def _require_same_kinds(made: _Instance, source: Source, real: Shapes) -> None:
    ties = _tied(made.network)
    small = {template_of(key): key for key in made.shapes}
    there = {template_of(key): key for key in real}
    more = [key for kind, key in small.items() if kind not in there and key not in ties]
    less = [key for kind, key in there.items() if kind not in small and not _left_by_loader(key, source)]
    if more or less:
        said = f"it has {more[0]}" if more else f"it lacks {less[0]}"
        raise _UnfitError(f"{said}, unlike the checkpoint" if more else f"{said}, which the checkpoint has")


def _left_by_loader(key: str, source: Source) -> bool:
    """Whether the library's own loader leaves a tensor of a file aside."""
    return any(re.search(pattern, name) for pattern in source.unexpected for name in (key, f"{source.prefix}{key}"))


def _tied(network: FileNetwork) -> set[str]:
    """Further keys of tensors that have several."""
    first: dict[int, str] = {}
    return {key for key, t in network.state_dict().items() if first.setdefault(id(t), key) != key}


# ---- the spec


def _derived(
    source: Source, pair: tuple[_Instance, _Instance], real: Shapes, seed: int, seconds: float, told: Told | None
) -> Derivation:
    small, other = pair
    if told is not None:
        told(0.0, f"{source.name} with {small.parameters:,} parameters, some {_PASSES} passes")
    found = derive(small.network, small.inputs, _name(source), seed=seed, seconds=seconds, told=told)
    draft = found.draft
    if draft is None or not found.holds:
        raise _UnfitError(found.proof.describe())
    draft = _for_files(draft, source, small, real)
    configs = Configs(small.config, other.config, source.config, source.whole)
    why = ""
    for guess in fitted(draft, configs):
        text = spec_text(guess)
        try:
            spec = parse_spec(text, f"{guess.name}.yaml")
            proof = _confirmed(spec, found, pair, seed)
            try:
                layout = bind(spec, real, Request(source.config))
                _require_sized(layout)
            except RebasinError as error:
                raise _UnfitError(" ".join(f"it does not fit the checkpoint: {error}".split())) from error
        except (_UnfitError, RebasinError) as error:
            why = why or str(error).splitlines()[0]
            continue
        note = f"derived on {small.parameters:,} parameters, confirmed on {other.parameters:,} of other sizes"
        notes = (*found.notes, note)
        return replace(found, text=text, spec=spec, proof=proof, draft=guess, bound=layout, notes=notes)
    raise _UnfitError(f"what was derived is not confirmed: {why}")


def _name(source: Source) -> str:
    return str(source.config.get("model_type") or source.name).lower().replace("_", "-")


def _for_files(draft: Draft, source: Source, small: _Instance, real: Shapes) -> Draft:
    """What files may begin keys with, may be without, and may have that the network does not."""
    there = set(map(template_of, small.shapes))
    aside = {key: "" for key in real if template_of(key) not in there}
    return replace(
        draft,
        prefixes=(source.prefix,) if source.prefix else (),
        optional=frozenset(_tied(small.network)),
        ignored={**draft.ignored, **aside},
    )


def _confirmed(spec: PermutationSpec, found: Derivation, pair: tuple[_Instance, _Instance], seed: int) -> Proof:
    """The proof on the network that it was derived on, where it says the same, if it holds on the second one too.

    Raises:
        _UnfitError: it does not.
    """
    small, other = pair
    layout = bind(spec, small.shapes, Request(small.config))
    if _said(layout) != _said(found.proof.layout):
        raise _UnfitError("it says something else than what was derived")
    _require_sized(bind(spec, other.shapes, Request(other.config)))
    proof = prove(spec, replace(other.judge.subject(spec.name), config=other.config), seed)
    if not proof.holds:
        raise _UnfitError(proof.describe())
    return replace(found.proof, spec=spec, layout=layout)


def _said(layout: Layout) -> Any:
    """What moves where, whatever the words."""
    dims = {name: layout.dims[name] for name in layout.moving()}
    return dims, {key: (t.pieces, t.index_dim, t.siblings) for key, t in layout.tensors.items()}


def _require_sized(layout: Layout) -> None:
    for name, dim in layout.dims.items():
        if dim.unsized or not dim.size:
            raise _UnfitError(f"nothing tells the size of {name}")


def _whole(source: Source, real: Shapes, as_saved: bool, seed: int) -> _Instance:
    """The network itself.

    Raises:
        ContentError: it cannot be built or run.
    """
    with on_files_of_others(f"{source.name} cannot be built from config.json", _REMEDY):
        network = FileNetwork(source.make(source.config), source.prefix, as_saved=as_saved)
        try:
            judge = _judge(network, source.whole, seed)
            whole = _Instance(source.config, network, judge.network.inputs, judge)
            _require_same_kinds(whole, source, real)
        except _UnfitError as error:
            raise ContentError(f"{source.name} cannot be run: {error}", remedy=_REMEDY) from error
    return whole


def _holds_on(whole: _Instance, made: Derivation, seed: int) -> bool:
    """Whether what was derived on a small network is proved on the network itself, too: sizes may round otherwise."""
    return prove(made.spec, replace(whole.judge.subject(made.spec.name), config=whole.config), seed).holds


def _derived_whole(
    source: Source, whole: _Instance, real: Shapes, seed: int, seconds: float, told: Told | None
) -> Derivation:
    """Derived on the network itself."""
    if told is not None:
        told(0.0, f"{source.name} with all its {whole.parameters:,} parameters")
    found = derive(whole.network, whole.inputs, _name(source), seed=seed, seconds=seconds, told=told)
    if found.draft is None:
        return found
    draft = _for_files(found.draft, source, whole, real)
    text = spec_text(draft)
    spec = parse_spec(text, f"{draft.name}.yaml")
    layout = bind(spec, real, Request(source.config))
    return replace(found, text=text, spec=spec, draft=draft, bound=layout)
