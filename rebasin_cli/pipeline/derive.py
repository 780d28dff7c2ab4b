"""`rebasin arch derive`, and specs for networks that are named where no shipped spec is theirs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from msgspec import structs
from torch import nn

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.checkpoints.places import check_file_target
from rebasin_cli.derivation.borrowing import borrowed
from rebasin_cli.derivation.derive import Derivation, derive
from rebasin_cli.derivation.passes import Network
from rebasin_cli.derivation.search import Told
from rebasin_cli.derivation.soundness import sound_judge
from rebasin_cli.derivation.unsaid import unsaid
from rebasin_cli.errors import ContentError, RebasinError, UsageError, human_bytes
from rebasin_cli.evaluation.examples import FEWEST, HELP, enough_examples, guesses, parse_inputs, runs_on
from rebasin_cli.evaluation.given import GivenNetwork, NetworkName
from rebasin_cli.evaluation.inputs import Inputs
from rebasin_cli.evaluation.networks.module_network import ModuleNetwork, build_module, user_network
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.data import find_network, read_data
from rebasin_cli.pipeline.data_request import DataRequest
from rebasin_cli.pipeline.inputs import Source, open_source
from rebasin_cli.pipeline.kept_specs import keep, kept_spec, place_for
from rebasin_cli.pipeline.layouts import SpecChoice, shapes_of
from rebasin_cli.pipeline.record import architecture_record, input_record, versions
from rebasin_cli.pipeline.remembered_proofs import RememberedProof, remember
from rebasin_cli.report.document import CheckRecord, DerivationRecord, RunDocument
from rebasin_cli.safe_text import first_names
from rebasin_cli.spec import Layout, Request, bind

LARGEST = 100_000_000
"""Parameters up to which a network is run for its spec: twelve bytes each, five times over, and a hundred runs."""

SECONDS = 600.0
"""After which a search ends with what it has, unless the user says otherwise."""

_LOOKED_AT = 300_000
"""Parameters up to which a network is run some eight times to see whether a shipped spec says all: a second or less."""

_STEPS = 1000
_TOLD = 1_000_000  # parameters from which on memory and runs are told beforehand
_BYTES = 128  # of memory for a parameter: weights, their draws and gradients in float64
_OTHER_IN_TRAINING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


@dataclass(frozen=True, slots=True)
class DeriveRequest:
    """What the user asked for.

    Attributes:
        source: `package.module:factory`, a folder of transformers or diffusers, or a module in memory.
        checkpoint: whose keys and sizes the spec has to cover; inputs: as `--inputs` has them.
        output: where the spec goes; None: nowhere but into the document.
        sizes: `--set`, of the checkpoint; seconds: for the search.
    """

    source: NetworkName
    options: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Source | None = None
    inputs: str | None = None
    output: Path | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    seconds: float = SECONDS
    force: bool = False


def derive_architecture(request: DeriveRequest, progress: Progress) -> RunDocument:
    """Derive the spec of a network, prove it, and write it.

    Raises:
        RebasinError: network, inputs, checkpoint or output cannot be used. A spec that is not proved is a finding.
    """
    if request.output is not None:
        check_file_target(request.output, force=request.force)
    given = None if request.inputs is None else parse_inputs(request.inputs, request.seed)
    checkpoint = None if request.checkpoint is None else open_source(request.checkpoint, progress)
    try:
        if isinstance(request.source, str) and os.path.isdir(request.source):
            found = _of_folder(request, request.source, checkpoint, progress)
            called = "random inputs of a small network of its code"
        else:
            module, own = build_module(request.source, checkpoint or {}, request.options)
            if checkpoint is not None:
                _require_same_keys(module, checkpoint)
            inputs, called = _inputs_for(module, given, own, request.inputs, progress)
            found = _derived(request.source, module, inputs, request.seed, request.seconds, progress)
        layout, covers = _covers(found, checkpoint, request.sizes)
        if request.output is not None:
            layout = replace(layout, spec=replace(layout.spec, path=request.output))
    finally:
        if checkpoint is not None:
            checkpoint.close()
    _warn_if_small(found, progress)
    checks = [CheckRecord(str(request.source), found.holds, found.proof.describe()), *covers]
    if all(check.passed for check in checks):
        remember(found.spec, RememberedProof.now(str(request.source), found.proof.error))
    document = RunDocument(
        command="arch derive",
        inputs={} if request.checkpoint is None else {"checkpoint": input_record(request.checkpoint.shown, None)},
        architecture=architecture_record(layout, SpecChoice(sizes=request.sizes)),
        versions=versions(),
        checks=tuple(checks),
        derivation=_record(found, str(request.source), called),
    )
    if request.output is not None:
        failed = next((check for check in checks if not check.passed), None)
        head = "" if failed is None else f"# NOT PROVED: {failed.detail}\n"
        with Outputs(force=request.force) as outputs:
            outputs.write(request.output, (head + found.text).encode())
        document = structs.replace(document, outputs={"spec": os.path.abspath(request.output)})
    return structs.replace(document, warnings=tuple(progress.warnings), invocations=progress.invocations())


def spec_of_network(
    data: DataRequest, checkpoint: Checkpoint, progress: Progress, fits: Callable[[SpecChoice], bool]
) -> SpecChoice:
    """The spec of a network that the user named, derived or as it was derived before.

    Args:
        data: the network, and examples to run it on if there are any.
        fits: whether a spec that was kept is the network's still: its code may have changed elsewhere.

    Raises:
        ContentError: none can be proved. UsageError: the network cannot be imported.
    """
    assert data.network is not None
    reference = data.network
    module, own = build_module(reference, checkpoint, data.options)
    _require_same_keys(module, checkpoint)
    place = place_for(reference, data.options, _shapes(module))
    text = None if isinstance(reference, GivenNetwork) else kept_spec(place)
    if text is not None and fits(kept := SpecChoice(arch=str(place), text=text)):
        progress.remark(
            f"no shipped spec is that of {reference}; the one derived from its code before is used: {place}"
        )
        return kept
    examples, _ = _inputs_for(module, _examples(data, checkpoint, progress), own, None, progress)
    found = _derived(reference, module, examples, 0, SECONDS, progress)
    if not found.holds:
        raise ContentError(
            f"no spec could be proved for {reference}: {found.proof.describe()}",
            remedy=f"`rebasin arch derive {reference} -o FILE.yaml` writes what is known; mend it, name it: --arch",
        )
    _warn_if_small(found, progress)
    where = "" if isinstance(reference, GivenNetwork) else f"; it is kept in {place}"
    if where:
        keep(place, found.text)
    remember(found.spec, RememberedProof.now(str(reference), found.proof.error))
    progress.remark(
        f"no shipped spec is that of {reference}, so one was derived from its code and proved on it "
        f"({found.passes} passes, {found.seconds:.0f} s){where}"
    )
    return SpecChoice(arch=str(place), text=found.text)


def _examples(data: DataRequest, checkpoint: Checkpoint, progress: Progress) -> Inputs | None:
    """The first examples of `--data`."""
    if data.path is None or data.network is None:
        return None
    network = user_network(data.network, checkpoint, "", data.options)
    return read_data(data, data.path, data.fit_split, 2 * FEWEST, network, checkpoint, progress).inputs


def _of_folder(request: DeriveRequest, source: str, checkpoint: Checkpoint | None, progress: Progress) -> Derivation:
    """Derived on small networks of the code that a folder's config.json names, for the shapes of its weights.

    Raises:
        UsageError: options that are for a network of the user's own.
    """
    from rebasin_cli.derivation.pretrained import derive_folder

    for option, value in (("--inputs", request.inputs), ("--network-option", request.options)):
        if value:
            raise UsageError(f"{option} is for a function that builds a network, and {source} is a folder")
    folder = Path(source)
    with ExitStack() as files, _deriving(source, progress) as told:
        own = checkpoint
        if own is None and _has_weights(folder):
            own = files.enter_context(open_source(Source.file(folder), progress))
        shapes = None if own is None else shapes_of(own)
        return derive_folder(folder, shapes, seed=request.seed, seconds=request.seconds, told=told)


def _has_weights(folder: Path) -> bool:
    """Whether there is more than a config in a folder."""
    return any(path.suffix in (".safetensors", ".bin", ".pt", ".pth") for path in folder.iterdir())


@contextmanager
def _deriving(source: str, progress: Progress) -> Iterator[Told]:
    """A phase that hears what share is done."""
    with progress.phase(f"deriving a spec from {source}", _STEPS) as advance:
        done = 0

        def told(share: float | None, name: str) -> None:
            nonlocal done
            if share is None:
                progress.remark(name)
                return
            now = max(done, int(share * _STEPS))
            advance(now - done)
            done = now

        yield told


def _derived(
    reference: NetworkName, module: nn.Module, inputs: Inputs, seed: int, seconds: float, progress: Progress
) -> Derivation:
    count = sum(p.numel() for p in module.parameters())
    if count > LARGEST:
        raise ContentError(
            f"{reference} has {count:,} parameters, and up to {LARGEST:,} are searched",
            remedy="build a smaller one of the same code, with --network-option; the spec holds for both",
        )
    if count > _TOLD:
        progress.remark(f"{count:,} parameters: about {human_bytes(_BYTES * count)} of memory")
    if any(part.training and isinstance(part, _OTHER_IN_TRAINING) for part in module.modules()):
        progress.remark("the network is run in evaluation mode: BatchNorm by its running statistics, without dropout")
    with _deriving(str(reference), progress) as told:
        name = str(reference).replace(":", "-")
        title = f"derived from {reference}"
        return derive(module, inputs, name, title=title, seed=seed, seconds=seconds, told=told)


def _inputs_for(
    module: nn.Module, given: Inputs | None, own: Any, text: str | None, progress: Progress
) -> tuple[Inputs, str]:
    """What the network is run on, and what that is called: as given, its factory's own, or a guess that is said.

    Raises:
        UsageError: there is nothing to run it on.
    """
    for inputs, called in ((given, text or "the first examples"), (own, "the factory's inputs")):
        if inputs is not None:
            more = enough_examples(inputs)
            return (more if runs_on(module, more) else inputs), called
    for inputs, called in guesses(module):
        progress.warn(f"no inputs are named: the network is run on a guess, {called}")
        return inputs, called
    raise UsageError(
        "there is nothing to run the network on",
        remedy=f"name inputs with --inputs ({HELP}), or let the factory return them",
    )


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in module.state_dict().items() if isinstance(t, torch.Tensor)}


def _require_same_keys(module: nn.Module, checkpoint: Checkpoint) -> None:
    """The module's tensors are the checkpoint's, but for a prefix that all have.

    Raises:
        ContentError: they are not.
    """
    own = _shapes(module)
    there = shapes_of(checkpoint)
    absent = [name for name in own if name not in there and not any(key.endswith(f".{name}") for key in there)]
    if absent:
        raise ContentError(
            f"the network has {len(absent)} tensors that the checkpoint has not: {first_names(absent, 4)}",
            where=f"the checkpoint has {first_names(list(there), 4)}",
            remedy="its state_dict() must have the checkpoint's keys; see them with `rebasin inspect`",
        )


def _covers(
    found: Derivation, checkpoint: Checkpoint | None, sizes: Mapping[str, int]
) -> tuple[Layout, list[CheckRecord]]:
    if checkpoint is None:
        return found.bound or found.proof.layout, []
    try:
        layout = bind(found.spec, shapes_of(checkpoint), Request(checkpoint.config, sizes))
    except ContentError as error:
        return found.proof.layout, [CheckRecord("covers the checkpoint", False, error.what)]
    return layout, [CheckRecord("covers the checkpoint", True, f"all {len(checkpoint)} tensors")]


def _warn_if_small(found: Derivation, progress: Progress) -> None:
    """Say where the symmetry of the network may be larger than a spec that is proved."""
    for note in found.notes:
        progress.remark(note)
    if found.undecided:
        progress.warn(f"not decided: whether {found.undecided[0]} may be exchanged; they stay")
    elif not found.complete:
        progress.warn(
            f"the search ended after {found.seconds:.0f} s: what was not decided by then stays (--max-seconds)"
        )
    if found.stays.ignored:
        names = first_names(list(found.stays.ignored), 3)
        progress.warn(f"the outputs on these inputs do not depend on {names}: copied; wrong if other inputs use them")
    if found.held:
        progress.warn(f"{len(found.held)} found and left in place: {first_names(found.held, 3)}")
    if found.free:
        progress.warn(
            "the symmetry is larger than the spec says, which is right but leaves something: exchanging "
            f"{first_names(found.free, 3)} changes nothing"
        )


def warn_if_larger(data: DataRequest, checkpoint: Checkpoint, layout: Layout, progress: Progress) -> None:
    """Say where a network, if it is small, lets more be exchanged than a spec says that keeps its function."""
    free: tuple[str, ...] = ()
    with suppress(RebasinError):  # what cannot be run is told where it is compared
        module, inputs = _to_look_at(data, checkpoint, layout, progress)
        small = sum(p.numel() for p in module.parameters()) <= _LOOKED_AT
        if small and inputs is not None and module.state_dict().keys() <= set(layout.tensors):
            with borrowed(module):
                judge = sound_judge(Network(module, enough_examples(inputs)), 0)
                free = unsaid(judge, layout, briefly=True).free
    if free:
        progress.warn(
            f"the symmetry of {data.network} is larger than `{layout.spec.name}` says, which is right but leaves "
            f"something: exchanging {first_names(free, 1)} changes nothing; `rebasin arch derive` finds all of it"
        )


def _to_look_at(
    data: DataRequest, checkpoint: Checkpoint, layout: Layout, progress: Progress
) -> tuple[nn.Module, Inputs | None]:
    """The network that was named, built once in a command where there are examples for it, and inputs."""
    assert data.network is not None
    if data.path is not None:
        network = find_network(data, layout, checkpoint)
        assert isinstance(network, ModuleNetwork)
        examples = read_data(data, data.path, data.fit_split, 2 * FEWEST, network, checkpoint, progress)
        return network.module, examples.inputs
    module, own = build_module(data.network, checkpoint, data.options)
    return module, own if own is not None else next(guesses(module), (None, ""))[0]


def _record(found: Derivation, network: str, inputs: str) -> DerivationRecord:
    return DerivationRecord(
        network, inputs, found.passes, round(found.seconds, 2), found.complete, found.held, found.unread, found.free
    )
