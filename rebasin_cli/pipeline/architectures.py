"""`rebasin arch`: list the specs, show one, check one against a checkpoint, prove one on a real network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from rebasin_cli.errors import ContentError, UsageError, did_you_mean
from rebasin_cli.evaluation.given import NetworkName
from rebasin_cli.files import read_json
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.layouts import SpecChoice
from rebasin_cli.pipeline.record import spec_record, versions
from rebasin_cli.pipeline.remembered_proofs import RememberedProof, remember
from rebasin_cli.process import load_torch
from rebasin_cli.report.document import (
    ArchitectureRecord,
    CheckRecord,
    DimRecord,
    ListedArchitecture,
    RunDocument,
    TensorRecord,
)
from rebasin_cli.spec import Layout, PermutationSpec, find_spec, shipped_spec, shipped_specs
from rebasin_cli.spec.kinds import kind_of
from rebasin_cli.spec.registry import shipped_outlines

if TYPE_CHECKING:  # what reads checkpoints, which a list of specs does not need
    from rebasin_cli.pipeline.inputs import Source


def list_architectures(word: str = "") -> RunDocument:
    """Every shipped spec, by name; with a word, those with it in their name, what they are for, or their kind.

    Raises:
        UsageError: none has it.
    """
    listed = []
    for name, path in shipped_specs().items():
        known = shipped_outlines().get(name) or shipped_spec(name)
        if word.lower() in f"{name}\n{known.title}\n{kind_of(name)}".lower():
            listed.append(ListedArchitecture(name, known.title, known.sha256, os.path.abspath(path), shipped=True))
    if not listed:
        raise UsageError(
            f"no shipped architecture has `{word}` in its name or title",
            remedy=did_you_mean(word, shipped_specs()) or f"`rebasin arch list` lists all {len(shipped_specs())}",
        )
    return RunDocument(command="arch list", architectures=tuple(listed), versions=versions())


def show_architecture(
    name: str, checkpoint: Source | None, choice: SpecChoice, progress: Progress, *, count: bool = False
) -> RunDocument:
    """A spec's dims and tensors; with a checkpoint, the ones it has there and their sizes.

    Args:
        count: tell the number of permutations and of signs, too.

    Raises:
        UsageError: `count` without a checkpoint, so that there are no sizes.
    """
    if count and checkpoint is None:
        raise UsageError(
            "--count needs the sizes of dims, and a spec alone has none",
            remedy=f"name a checkpoint: rebasin arch show {name} CKPT --count",
        )
    if checkpoint is None:
        spec = find_spec(name)
        return RunDocument(
            command="arch show", architecture=_unbound_record(spec), tensors=_templates(spec), versions=versions()
        )
    from rebasin_cli.pipeline.inputs import open_source
    from rebasin_cli.pipeline.inspect import tensor_records
    from rebasin_cli.pipeline.layouts import bind_one, tell_layout
    from rebasin_cli.pipeline.record import architecture_record, input_record

    with open_source(checkpoint, progress) as opened:
        layout = bind_one(opened, replace(choice, arch=name, symmetry="all", rotates=True))
        tell_layout(layout, progress)
        architecture = architecture_record(layout, choice)
        dims = {
            dim: structs.replace(record, tensors=tuple(layout.users.get(dim, ())))
            for dim, record in architecture.dims.items()
        }
        return RunDocument(
            command="arch show",
            inputs={"checkpoint": input_record(checkpoint.shown, None)},
            architecture=structs.replace(
                architecture,
                dims=dims,
                log10_symmetries=layout.log10_symmetries() if count else None,
                log10_signs=layout.log10_signs() or None if count else None,
            ),
            warnings=tuple(progress.warnings),
            versions=versions(),
            tensors=tensor_records(opened, layout),
        )


def check_architecture(name: str, checkpoint: Source, choice: SpecChoice, progress: Progress) -> RunDocument:
    """Whether a spec covers a checkpoint, both ways. A malformed spec is an error, one that misfits a finding."""
    from rebasin_cli.pipeline.inputs import open_source
    from rebasin_cli.pipeline.layouts import bind_one, named_spec, tell_layout
    from rebasin_cli.pipeline.record import architecture_record, input_record

    choice = replace(choice, arch=name)
    layout: Layout | None = None
    with open_source(checkpoint, progress) as opened:
        spec = named_spec(opened, choice)
        try:
            layout = bind_one(opened, choice)
            outcome = CheckRecord("covers the checkpoint", True, f"all {len(opened)} tensors")
        except ContentError as error:
            outcome = CheckRecord("covers the checkpoint", False, str(error))
    checks = [outcome]
    if layout is not None:
        moving = len(layout.moving())
        checks.append(CheckRecord("moves something", moving > 0, f"{moving} of {len(layout.dims)} dims"))
        tell_layout(layout, progress)
    return RunDocument(
        command="arch check",
        inputs={"checkpoint": input_record(checkpoint.shown, None)},
        architecture=architecture_record(layout, choice) if layout else _unbound_record(spec),
        warnings=tuple(progress.warnings),
        versions=versions(),
        checks=tuple(checks),
    )


@dataclass(frozen=True, slots=True)
class ProveRequest:
    """What the user asked for.

    Attributes:
        text: of a spec that is in no file.
        network: `module:factory` of the user's own, or a module; None takes the ones that the spec's name stands for.
        sizes: `--set`; config: a config.json, for what shapes do not tell.
    """

    spec: str
    network: NetworkName | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    config: Path | None = None
    seed: int = 0
    text: str = ""


def prove_architecture(request: ProveRequest, progress: Progress) -> RunDocument:
    """Permute real networks at random and compare their outputs; a proof of a user's own spec is remembered.

    Raises:
        RebasinError: the spec, the network or the config cannot be used; a proof that fails is a finding.
    """
    load_torch()
    from rebasin_cli.proofs.proof import prove

    spec = find_spec(request.spec, request.text)
    config = _read_config(request.config) if request.config else None
    proofs = []
    for make in _subjects(spec, request.network):
        subject = make()
        sizes = {**subject.overrides, **request.sizes}
        subject = replace(subject, overrides=sizes, config=subject.config if config is None else config)
        with progress.phase(f"proving on {subject.name}"):
            proofs.append(prove(spec, subject, request.seed))
    checks = [CheckRecord(proof.subject, proof.holds, proof.describe()) for proof in proofs]
    alone = [family for family in proofs[0].single if all(family in proof.single for proof in proofs)]
    if alone:
        detail = f"not proved: {', '.join(alone)} have a single unit in every network; build one with more"
        checks.append(CheckRecord("every dim is permuted", False, detail))
    if not spec.shipped and all(check.passed for check in checks):
        remember(spec, RememberedProof.now(str(request.network or spec.name), max(proof.error for proof in proofs)))
    return RunDocument(
        command="arch prove",
        architecture=_unbound_record(spec),
        warnings=tuple(progress.warnings),
        versions=versions(),
        checks=tuple(checks),
    )


def _read_config(path: Path) -> Mapping[str, object]:
    """A config.json.

    Raises:
        ContentError: it is none. SystemFailure: it cannot be read.
    """
    from rebasin_cli.checkpoints.checkpoint import CONFIG_LIMIT

    remedy = "--config takes the config.json of a network; --set NAME=N gives one size"
    value = read_json(path, CONFIG_LIMIT, remedy)
    if not isinstance(value, dict):
        raise ContentError(f"{path} holds no object", remedy=remedy)
    return value


def _subjects(spec: PermutationSpec, network: NetworkName | None) -> tuple[Callable[[], Any], ...]:
    from rebasin_cli.proofs.subjects import SUBJECTS

    if network is not None:
        from rebasin_cli.proofs.subjects.user import user_subject

        return (lambda: user_subject(network),)
    if spec.name not in SUBJECTS:
        raise UsageError(
            f"no network is known for the spec `{spec.name}`",
            where=str(spec.path),
            remedy="name a function that builds yours: --network my_module:build, returning (module, inputs)",
        )
    return SUBJECTS[spec.name]


def _unbound_record(spec: PermutationSpec) -> ArchitectureRecord:
    """The spec alone: dims with the templates in which they stand, sizes unknown (0)."""
    from rebasin_cli.spec.language.turning import with_turned

    places: dict[str, list[str]] = {}
    named = with_turned(spec)
    for line in named.lines:
        for dim in line.pattern.dim_names() if line.pattern else ():
            found = places.setdefault(str(dim), [])
            if line.template.text not in found:
                found.append(line.template.text)
    rules = {str(rule.name): rule for rule in named.rules}
    acting = {
        "signs": {str(rule.name) for rule in spec.signs},
        "scales": {str(rule.name) for rule in spec.scales},
        "rotations": {str(rule.name) for rule in spec.rotations},
    }
    dims = {}
    for name, templates in places.items():
        rule = rules.get(name)
        owner = str(rule.owner) if rule and rule.owner else None
        always = rule is not None and not rule.without  # `fixed without KEY` depends on the checkpoint
        fixed = rule.fixed or None if rule is not None and always else None
        symmetry = " ".join(what for what, found in acting.items() if name in found)
        dims[name] = DimRecord(size=0, owner=owner, fixed=fixed, tensors=tuple(templates), symmetry=symmetry)
    frozen = tuple(name for name, dim in dims.items() if dim.fixed)
    return structs.replace(spec_record(spec), dims=dims, fixed=frozen)


def _templates(spec: PermutationSpec) -> dict[str, TensorRecord]:
    """Every key template with its pattern; one that stands for several ranks is shown with each of them."""
    found: dict[str, TensorRecord] = {}
    for line in spec.lines:
        key, pattern = line.template.text, line.pattern.with_bars if line.pattern else ""
        if key in found:
            pattern = f"{found[key].pattern}  or  {pattern}"
        found[key] = TensorRecord("", (), line.section, pattern, line.line)
    return found
