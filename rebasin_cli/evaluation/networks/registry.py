"""Which spec families can be run, and with which options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from rebasin_cli.errors import ContentError
from rebasin_cli.evaluation.networks import mlp, resnet, vgg
from rebasin_cli.evaluation.networks.network import HasShape, Network
from rebasin_cli.evaluation.networks.options import Option, check_options
from rebasin_cli.spec import Layout
from rebasin_cli.spec.binding.bind import without_wrappers

Builder = Callable[[Mapping[str, tuple[int, ...]], str, Mapping[str, str]], Network]


@dataclass(frozen=True, slots=True)
class Family:
    """A builder, from shapes (by unwrapped names), prefix and options, and the options it knows."""

    build: Builder
    options: tuple[Option, ...]


FAMILIES: Mapping[str, Family] = {
    "mlp": Family(mlp.build_mlp, mlp.OPTIONS),
    "vgg": Family(vgg.build_vgg, vgg.OPTIONS),
    "resnet-basic": Family(resnet.build_basic, resnet.OPTIONS),
    "resnet-bottleneck": Family(resnet.build_bottleneck, resnet.OPTIONS),
}


def build_network(layout: Layout, infos: Mapping[str, HasShape], options: Mapping[str, str]) -> Network:
    """The network of a checkpoint, as a pure function of its state dict, from the spec's name and the shapes.

    Args:
        infos: shapes by key, as on disk.
        options: what shapes cannot tell, such as {"activation": "gelu"}.

    Raises:
        ContentError: no network is known for the spec, or the tensors are not ones it can run.
        UsageError: an option or its value is unknown; the message lists what there is.
    """
    name = layout.spec.name
    family = FAMILIES.get(name)
    if family is None:
        raise ContentError(
            f"there is no network to run for the architecture {name}, so there is no loss",
            remedy=f"name your own with --network, or --eval-command; there are networks for {', '.join(FAMILIES)}",
        )
    check_options(name, family.options, options)
    # Under the keys they have without their wrappers, not under the spec's names: a builder knows several spellings.
    names = {key: _bare(key, layout) for key in infos if layout.tensors[key].spoken}
    network = family.build({name: tuple(infos[key].shape) for key, name in names.items()}, layout.prefix, options)
    return replace(network, spelled={name: key for key, name in names.items() if layout.prefix + name != key})


def _bare(key: str, layout: Layout) -> str:
    """The key without what wrappers put in front of it and within it."""
    return without_wrappers(key.removeprefix(layout.prefix))
