"""From headers to a layout: which spec, bound to what, and whether two checkpoints are of one architecture.

Everything here works on names and shapes, so that it refuses before a tensor is read.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.pipeline import Progress
from rebasin_cli.report.document import ArchitectureRecord
from rebasin_cli.safe_text import listed, shell_word
from rebasin_cli.spec import Layout, PermutationSpec, Request, bind, detect, find_spec
from rebasin_cli.spec.binding.left_over import require_matches
from rebasin_cli.spec.registry import UnknownArchitectureError

ROTATING = ("weights", "ste")
"""Methods that find maps of units."""


@dataclass(frozen=True, slots=True)
class SpecChoice:
    """What the user said about the spec: `--arch`, `--set`, `--freeze`, `--ignore`.

    Attributes:
        text: the YAML of a spec whose file may be gone: a document or a permutation file holds it.
        symmetry: what may be done to units beside permuting them: `--symmetry`.
        rotates: whether what is done with the spec can rotate units; not all that match can.
    """

    arch: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    text: str = ""
    symmetry: str = "permutations"
    rotates: bool = False

    @property
    def signs(self) -> bool:
        """Whether units may have their signs turned."""
        return self.symmetry in ("signs", "all")

    @property
    def scales(self) -> bool:
        """Whether units may be scaled."""
        return self.symmetry in ("scales", "all")

    @property
    def rotations(self) -> bool:
        """Whether linear maps may act on units."""
        return self.rotates and self.symmetry in ("rotations", "all")

    def for_method(self, method: str) -> SpecChoice:
        """The choice of a command that can rotate units, if its method can.

        Raises:
            UsageError: it cannot, and nothing else was asked for.
        """
        if method not in ROTATING and self.symmetry == "rotations":
            raise UsageError(
                f"--method {method} rotates nothing, and --symmetry asks for it",
                remedy=f"use --method {' or '.join(ROTATING)}, or leave out --symmetry",
            )
        return replace(self, rotates=method in ROTATING)

    @staticmethod
    def of_record(record: ArchitectureRecord) -> SpecChoice:
        """The choice that an earlier command made."""
        options = record.options
        return SpecChoice(
            record.file or record.name, options.set, options.freeze, options.ignore, record.text,
            options.symmetry or "permutations",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """Two checkpoints of one architecture, under A's names.

    Attributes:
        b: B's tensors under A's names; a view where those differ.
        layout: bound to A's names: what is matched and mixed.
        layout_b: bound to B's own names: what moves where B itself is written.
        only_b: B's own names of tensors that the spec speaks of and A has not.
    """

    a: Checkpoint
    b: Checkpoint
    layout: Layout
    layout_b: Layout
    only_b: tuple[str, ...] = ()


def shapes_of(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Key → shape, from the headers."""
    return {key: info.shape for key, info in checkpoint.infos.items()}


def bind_one(
    checkpoint: Checkpoint,
    choice: SpecChoice,
    *,
    config: Mapping[str, object] | None = None,
    apart: Sequence[str] = (),
    still: Mapping[str, str] | None = None,
) -> Layout:
    """Bind the chosen spec, or find the one that fits; `apart` and `still` (see `Request`) go with a chosen one.

    Raises:
        ContentError: no spec fits, or several do, or the chosen one does not.
        UsageError: there is none of that name; it says what the headers look like.
    """
    shapes = shapes_of(checkpoint)
    config = config if config is not None else checkpoint.config
    try:
        if choice.arch is None:
            found = detect(shapes, config=config, overrides=choice.sizes, freeze=choice.freeze, ignore=choice.ignore)
            if not (choice.signs or choice.scales or choice.rotations):
                return found
        spec = named_spec(checkpoint, choice, config) if choice.arch is not None else found.spec
        request = Request(
            config, choice.sizes, choice.freeze, choice.ignore, apart, still or {}, choice.signs, choice.scales,
            choice.rotations,
        )  # fmt: skip
        return bind(spec, shapes, request)
    except ContentError as error:
        raise _of_copies(error, checkpoint) from error


def _of_copies(error: ContentError, checkpoint: Checkpoint) -> ContentError:
    """Where nothing fits as several copies of a network that is known are in one file: how to name one of them."""
    from rebasin_cli.checkpoints.members import copies, listed

    several = copies(checkpoint.infos)
    if several is None:
        return error
    stem, words = several
    begin = f"{stem}{words[0]}."
    own = {key.removeprefix(begin): info.shape for key, info in checkpoint.infos.items() if key.startswith(begin)}
    try:
        found = detect(own, config=checkpoint.config)
    except ContentError:
        return error
    one, every = (shell_word(f"{checkpoint.address}{'.' if checkpoint.key else ':'}{stem}{w}") for w in (words[0], "*"))
    return ContentError(
        f"the checkpoint holds {len(words)} copies of one network (`{found.spec.name}`): {listed(stem, words)}",
        where=checkpoint.address,
        remedy=f"name one of them, {one}; or make one of all: rebasin merge {every} -o merged.safetensors",
    )


def named_spec(
    checkpoint: Checkpoint, choice: SpecChoice, config: Mapping[str, object] | None = None
) -> PermutationSpec:
    """The spec that was named for a checkpoint.

    Raises:
        ContentError: it is malformed.
        UsageError: there is none of that name; it says what the headers look like.
    """
    assert choice.arch is not None
    try:
        return find_spec(choice.arch, choice.text)
    except UnknownArchitectureError as error:
        try:
            found = detect(shapes_of(checkpoint), config=config if config is not None else checkpoint.config)
            likeness = f"the headers of {checkpoint.path.name} are those of `{found.spec.name}`"
        except ContentError as nothing:
            likeness = f"{checkpoint.path.name}: {nothing.what}"
        raise UnknownArchitectureError(error.name, where=likeness) from error


def bind_pair(a: Checkpoint, b: Checkpoint, choice: SpecChoice) -> Pair:
    """Bind one spec to both and see that they agree.

    Tensors that are ignored may differ, and what the spec calls optional may be on one side only: it is not matched.

    Raises:
        ContentError: a tensor on one side only, other shapes or head counts, or no spec for them.
        UsageError: `--ignore`, `--freeze` or `--set` name something that neither has.
    """
    (pair,) = bind_models((a, b), choice)
    return pair


def check_symmetry(pairs: Sequence[Pair], choice: SpecChoice) -> None:
    """See that the symmetry that was asked for is there.

    Raises:
        UsageError: the spec gives that to no dim. ContentError: of what is to be done a type of tensor holds no result.
    """
    if choice.symmetry != "permutations":
        from rebasin_cli.pipeline.symmetry import check_asked

        check_asked(pairs, choice)


def bind_models(models: Sequence[Checkpoint], choice: SpecChoice) -> list[Pair]:
    """Bind one spec to all; a pair for each model after the first, all with one layout.

    What is matched is what all have: what one of them lacks or must keep in place counts for all.

    Raises:
        ContentError, UsageError: as `bind_pair`.
    """
    require_matches(choice.ignore, *models)
    first, *others = models
    labels = ("A", "B") if len(models) == 2 else tuple(f"model {i + 1}" for i in range(len(models)))
    if all(_alike(first, other) for other in others):
        layout = _bind_own(others[0], others[0].config or first.config, choice)
        return [Pair(first, other, layout, layout) for other in others]
    from rebasin_cli.pipeline.counterparts import Counterparts, Side

    layouts = _bind_each(models, labels, choice)
    apart: dict[str, None] = {}
    still: dict[str, str] = {}
    notes: dict[str, None] = {}
    counterparts = []
    for label, other, layout in zip(labels[1:], others, layouts[1:], strict=True):
        sides = Counterparts(Side(labels[0], first, layouts[0]), Side(label, other, layout))
        sides.check()
        counterparts.append(sides)
        apart |= dict.fromkeys(sides.only_first())
        still |= sides.still()
        notes |= dict.fromkeys(sides.notes())
    common = layouts[0]
    if apart or still:
        named = _named(layouts[0], _matching(choice, first))
        config = first.config or next((m.config for m in models if m.config is not None), None)
        common = bind_one(first, named, config=config, apart=tuple(apart), still=still)
    more = (note for layout in layouts[1:] for note in layout.notes)
    common = replace(common, notes=tuple(dict.fromkeys((*common.notes, *more, *notes))))
    pairs = [
        Pair(first, sides.view(), common, sides.second.layout, tuple(sides.only_second())) for sides in counterparts
    ]
    if not choice.rotations:
        return pairs
    from rebasin_cli.pipeline.symmetry import rotated_alike

    return rotated_alike(pairs)


def _alike(one: Checkpoint, two: Checkpoint) -> bool:
    return shapes_of(one) == shapes_of(two) and (one.config is None or two.config is None or one.config == two.config)


def _bind_own(checkpoint: Checkpoint, config: Mapping[str, object] | None, choice: SpecChoice) -> Layout:
    return bind_one(checkpoint, _matching(choice, checkpoint), config=config)


def _bind_each(models: Sequence[Checkpoint], labels: Sequence[str], choice: SpecChoice) -> list[Layout]:
    """Every model's own layout, all of one spec: the one that fits the second model, or else the first.

    Raises:
        ContentError: none fits, or the one that fits one of them does not fit another.
    """
    configs = [model.config or next((m.config for m in models if m.config is not None), None) for model in models]
    error: ContentError | None = None
    for at in (1, 0):
        try:
            known = _bind_own(models[at], configs[at], choice)
            break
        except ContentError as found:
            error = error or found
    else:
        assert error is not None
        raise error
    layouts = []
    for label, model, config in zip(labels, models, configs, strict=True):
        if model is models[at]:
            layouts.append(known)
            continue
        try:
            layouts.append(_bind_own(model, config, _named(known, choice)))
        except ContentError as found:
            raise ContentError(
                f"{labels[at]} fits the spec `{known.spec.name}`, and {label} does not: {found.what}",
                where=f"{label} is {model.address}" + (f"; {found.where}" if found.where else ""),
                remedy=found.remedy,
            ) from found
    return layouts


def _named(layout: Layout, choice: SpecChoice) -> SpecChoice:
    """The choice with the spec that was found."""
    spec = layout.spec
    return replace(choice, arch=spec.name if spec.shipped else str(spec.path), text=spec.text)


def _matching(choice: SpecChoice, checkpoint: Checkpoint) -> SpecChoice:
    """The choice with the `--ignore` patterns that are for one of a checkpoint's tensors."""
    return replace(choice, ignore=tuple(p for p in choice.ignore if fnmatch.filter(checkpoint, p)))


def proof_text(spec: PermutationSpec) -> str:
    """Where and when a spec that does not ship was proved; empty if it was not, or ships."""
    if spec.shipped:
        return ""
    from rebasin_cli.pipeline.remembered_proofs import proof_of

    return str(proof_of(spec) or "")


def tell_layout(layout: Layout, progress: Progress, choice: SpecChoice | None = None) -> None:
    """Say what a reader of the result must know about the spec and what it leaves in place.

    Args:
        choice: of a command that matches.
    """
    spec = layout.spec
    if proof := proof_text(spec):
        progress.remark(f"{spec.path.name} is not a shipped spec; it was proved {proof}")
    elif not spec.shipped:
        sizes = "".join(f" --set {name}={n}" for name, n in layout.sizes.items())
        progress.warn(
            f"{spec.path.name} is not a shipped spec: nothing has proved that it keeps the function; "
            f"`rebasin arch prove {shell_word(str(spec.path))} --network MODULE:FUNCTION{sizes}` does, with a "
            "function of your own that returns the network and example inputs"
        )
    for note in layout.notes:
        progress.warn(note)
    if choice is not None and choice.symmetry == "all" and not choice.rotates and spec.rotations:
        progress.warn("rotations are left out of --symmetry all: nothing but --method weights or ste finds them")
    if layout.rotated():
        progress.remark(
            "units are rotated in float64, and each element is rounded once to the type of its tensor; gains of norms "
            "on rotated streams are taken up by the layers that read them"
            if layout.norms
            else "units are rotated in float64, and each element is rounded once to the type of its tensor"
        )
    elif layout.scaled():
        progress.remark("units are scaled in float64, and each element is rounded once to the type of its tensor")
    if families := layout.needing_relu():
        progress.warn(
            f"scales of {listed(families, 'dim')} keep the function only where ReLU or leaky ReLU follows, which names "
            "and shapes do not tell: that it does is assumed where no network is run (--network or --data does)"
        )
    reasons: dict[str, list[str]] = {}
    for name, dim in layout.dims.items():
        if dim.fixed is not None and not dim.unsized and not dim.rotated:  # those without a size are in the notes
            reasons.setdefault(dim.fixed, []).append(name)
    for reason, names in reasons.items():
        progress.detail(f"at identity: {listed(names, 'dim')}: {reason}")
