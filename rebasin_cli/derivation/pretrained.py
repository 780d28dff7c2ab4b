"""A spec from a folder of transformers or diffusers, for networks of any size.

The search takes time and memory with the size of a network, and finds the same in a small one with the same code. So
the config is made small, the spec derived there, its numbers written as sizes from the config, and that text is proved
on a second small network with other sizes. What is not confirmed is refused.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from rebasin_cli.derivation.derive import Derivation, derive
from rebasin_cli.derivation.fitting import Configs, fitted
from rebasin_cli.derivation.instances import FileNetwork, Source, saved_shapes, source_of
from rebasin_cli.derivation.naming import template_of
from rebasin_cli.derivation.search import Told
from rebasin_cli.derivation.shrinking import SCALES, smaller
from rebasin_cli.derivation.small import (
    LARGEST,
    Instance,
    Shapes,
    UnfitError,
    further_keys,
    instance_of,
    judge_of,
    require_same_kinds,
)
from rebasin_cli.derivation.writing import Draft, spec_text
from rebasin_cli.errors import ContentError, RebasinError
from rebasin_cli.evaluation.libraries import MODULES, on_files_of_others, whole_numbers
from rebasin_cli.proofs.proof import Proof, prove
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.binding.binder import Request
from rebasin_cli.spec.binding.layout import Layout
from rebasin_cli.spec.language.loading import parse_spec
from rebasin_cli.spec.language.permutation_spec import PermutationSpec
from rebasin_cli.spec.registry import detect

_REMEDY = "name a network of its code and of small sizes with --network"
_MORE_TIME = "give it more with --max-seconds"
_OF_ONE_NETWORK = "config.json has to be that of these weights; compare its sizes with `rebasin inspect`"
_MOST_MODULES = 2_000  # of a model that is built to see its shapes
_MISFITS = 2  # of two ways to make it small: the others would say the same


class _MisfitError(UnfitError):
    """What was derived holds on both small networks, and does not fit the checkpoint."""


def derive_folder(
    folder: Path, shapes: Shapes | None = None, *, seed: int = 0, seconds: float = 600.0, told: Told | None = None
) -> Derivation:
    """Derive the spec of the network that a folder's config.json describes; the weights are not read.

    Args:
        folder: of transformers or diffusers, with a config.json.
        shapes: of all tensors of its checkpoint, by their keys; without them those that the class would save.
        seconds: after which the search ends with what it has, and nothing else is tried.
        told: hears beforehand how large the network is that is searched.

    Raises:
        UsageError: the library is not installed.
        ContentError: nothing is known of the class, it asks for code of the folder's own, no small network of it can
            be derived on, or what was derived is not confirmed by a second one or does not fit the checkpoint.
    """
    source = source_of(folder)
    with on_files_of_others(f"{source.name} cannot be built from config.json", _REMEDY, folder):
        as_saved, real = _real_shapes(source, shapes)
    shipped = _shipped(source, real)
    if shipped and told is not None:
        told(None, f"the shipped spec `{shipped}` fits its tensors, too, and `rebasin align` takes that one")
    end, tried, best = monotonic() + seconds, dict[str, list[str]](), list[Derivation]()
    seen: list[object] = []
    misfits = 0
    for small, other in SCALES:
        try:
            pair = (
                instance_of(source, small, real, as_saved, seed),
                instance_of(source, other, real, as_saved, seed + 1),
            )
            if pair[0].config in seen:
                continue
            seen.append(pair[0].config)
            best.append(_derived(source, pair, real, seed, end - monotonic(), told))
        except (UnfitError, RebasinError) as error:
            tried.setdefault(str(error).splitlines()[0], []).append(small.name)
            misfits += isinstance(error, _MisfitError)
        if monotonic() > end or len(best) > 1 or (best and not best[0].held) or misfits == _MISFITS:
            break
    made = min(best, key=lambda made: len(made.held)) if best else None
    if sum(map(_numel, real.values())) <= LARGEST and (made is not None or monotonic() < end):
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
    remedy = _OF_ONE_NETWORK if misfits else _MORE_TIME if monotonic() > end else _REMEDY
    raise ContentError(
        f"no spec can be derived for {source.name} on a smaller network of its code",
        where="; ".join(f"{', '.join(names)}: {why}" for why, names in tried.items()),
        remedy=f"the shipped spec `{shipped}` fits its tensors: `rebasin align` takes it" if shipped else remedy,
    )


def _shipped(source: Source, real: Shapes) -> str:
    """The shipped spec that fits the tensors, by its name; empty if none does."""
    try:
        return detect(real, config=source.config).spec.name
    except RebasinError:
        return ""


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


# ---- the spec


def _derived(
    source: Source, pair: tuple[Instance, Instance], real: Shapes, seed: int, seconds: float, told: Told | None
) -> Derivation:
    (small, other), end = pair, monotonic() + seconds
    if told is not None:
        told(None, f"{source.name} is searched with {small.parameters:,} parameters")
    # Where a unit of the small network has a scale, one of the layers that it stands for may have none.
    found = derive(small.network, small.inputs, _name(source), seed=seed, seconds=seconds, told=told, acting=False)
    draft = found.draft
    if draft is None or not found.holds:
        raise UnfitError(found.proof.describe())
    draft = _for_files(draft, source, small, real)
    configs = Configs(small.config, other.config, source.config, source.whole)
    failures, misfits, late = list[Exception](), list[tuple[PermutationSpec, _MisfitError]](), ""
    for guess in fitted(draft, configs):
        if (failures or misfits) and monotonic() > end:
            late = f" (no expressions for its sizes were found in {seconds:.0f} s)"
            break
        text = spec_text(guess)
        try:
            spec = parse_spec(text, f"{guess.name}.yaml")
            layouts = _bound_to_both(spec, found, pair)
            bound = _bound(spec, source, real)
            proof = _confirmed(spec, layouts, found, pair, seed)
        except _MisfitError as error:
            misfits.append((spec, error))
            continue
        except (UnfitError, RebasinError) as error:
            failures.append(error)
            continue
        note = f"derived on {small.parameters:,} parameters, confirmed on {other.parameters:,} of other sizes"
        notes = (*found.notes, note)
        return replace(found, text=text, spec=spec, proof=proof, draft=guess, bound=bound, notes=notes)
    try:
        for spec, _ in misfits[:1]:
            _confirmed(spec, _bound_to_both(spec, found, pair), found, pair, seed)
    except UnfitError as error:
        failures.append(error)
    else:
        if misfits:
            raise misfits[0][1]
    raise UnfitError(f"what was derived is not confirmed: {str(failures[0]).splitlines()[0]}{late}")


def _name(source: Source) -> str:
    return str(source.config.get("model_type") or source.name).lower().replace("_", "-")


def _for_files(draft: Draft, source: Source, small: Instance, real: Shapes) -> Draft:
    """What files may begin keys with, may be without, and may have that the network does not."""
    there = set(map(template_of, small.shapes))
    aside = {key: "" for key in real if template_of(key) not in there}
    return replace(
        draft,
        prefixes=(source.prefix,) if source.prefix else (),
        optional=frozenset(further_keys(small.network)),
        ignored={**draft.ignored, **aside},
    )


def _bound_to_both(spec: PermutationSpec, found: Derivation, pair: tuple[Instance, Instance]) -> Layout:
    """The layout of the network that it was derived on; there is one of the second network, too.

    Raises:
        UnfitError: it says something else than what was derived.
    """
    small, other = pair
    layout = bind(spec, small.shapes, Request(small.config))
    if _said(layout) != _said(found.proof.layout):
        raise UnfitError("it says something else than what was derived")
    _require_sized(bind(spec, other.shapes, Request(other.config)))
    return layout


def _bound(spec: PermutationSpec, source: Source, real: Shapes) -> Layout:
    """Bound to the checkpoint, before any longer work.

    Raises:
        UnfitError: it does not fit, or nothing tells a size.
    """
    try:
        layout = bind(spec, real, Request(source.config))
    except RebasinError as error:
        raise _MisfitError(" ".join(error.what.split())) from error
    _require_sized(layout)
    return layout


def _confirmed(
    spec: PermutationSpec, layout: Layout, found: Derivation, pair: tuple[Instance, Instance], seed: int
) -> Proof:
    """The proof on the network that it was derived on, where it says the same, if it holds on the second one too.

    Raises:
        UnfitError: it does not.
    """
    _, other = pair
    proof = prove(spec, replace(other.judge.subject(spec.name), config=other.config), seed)
    if not proof.holds:
        raise UnfitError(proof.describe())
    return replace(found.proof, spec=spec, layout=layout)


def _said(layout: Layout) -> Any:
    """What moves where, whatever the words."""
    dims = {name: layout.dims[name] for name in layout.moving()}
    return dims, {key: (t.pieces, t.index_dim, t.siblings) for key, t in layout.tensors.items()}


def _require_sized(layout: Layout) -> None:
    for name, dim in layout.dims.items():
        if dim.unsized or not dim.size:
            raise UnfitError(f"nothing tells the size of {name}")


def _whole(source: Source, real: Shapes, as_saved: bool, seed: int) -> Instance:
    """The network itself.

    Raises:
        ContentError: it cannot be built or run.
    """
    with on_files_of_others(f"{source.name} cannot be built from config.json", _REMEDY):
        network = FileNetwork(source.make(source.config), source.prefix, as_saved=as_saved)
        try:
            judge = judge_of(network, source.whole, seed)
            whole = Instance(source.config, network, judge.network.inputs, judge)
            require_same_kinds(whole, source, real)
        except UnfitError as error:
            raise ContentError(f"{source.name} cannot be run: {error}", remedy=_REMEDY) from error
    return whole


def _holds_on(whole: Instance, made: Derivation, seed: int) -> bool:
    """Whether what was derived on a small network is proved on the network itself, too: sizes may round otherwise."""
    return prove(made.spec, replace(whole.judge.subject(made.spec.name), config=whole.config), seed).holds


def _derived_whole(
    source: Source, whole: Instance, real: Shapes, seed: int, seconds: float, told: Told | None
) -> Derivation:
    """Derived on the network itself."""
    if told is not None:
        told(None, f"{source.name} is searched with all its {whole.parameters:,} parameters")
    found = derive(whole.network, whole.inputs, _name(source), seed=seed, seconds=seconds, told=told)
    if found.draft is None:
        return found
    draft = _for_files(found.draft, source, whole, real)
    text = spec_text(draft)
    spec = parse_spec(text, f"{draft.name}.yaml")
    try:
        layout = bind(spec, real, Request(source.config))
    except ContentError as error:
        raise ContentError(error.what, remedy=_OF_ONE_NETWORK) from error
    return replace(found, text=text, spec=spec, draft=draft, bound=layout)
