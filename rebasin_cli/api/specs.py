"""`derive` and `prove`: the spec of a network from its own code, and the proof of one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from rebasin_cli.api import requests
from rebasin_cli.api.calls import Talk, public
from rebasin_cli.api.keywords import DeriveKeywords, ProveKeywords
from rebasin_cli.api.models import given_model
from rebasin_cli.api.showing import Row, Shown
from rebasin_cli.checkpoints.outputs import save_file
from rebasin_cli.errors import UsageError
from rebasin_cli.evaluation.given import NetworkName
from rebasin_cli.pipeline.architectures import ProveRequest, prove_architecture
from rebasin_cli.report.document import ArchitectureRecord, CheckRecord, DimRecord, RunDocument

if TYPE_CHECKING:
    from torch import nn

    from rebasin_cli.api.keywords import SpecName


@dataclass(frozen=True, eq=False, repr=False)
class Proof(Shown):
    """Whether a spec keeps the function of a network; as a condition it is true if it does.

    Attributes:
        document: the run document, as the command prints it.
    """

    document: RunDocument

    @property
    def checks(self) -> tuple[CheckRecord, ...]:
        """What was tried: its name, whether it passed, and what was seen."""
        return self.document.checks or ()

    @property
    def holds(self) -> bool:
        """Whether all of it passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def __bool__(self) -> bool:
        return self.holds

    def _title(self) -> str:
        name = self.document.architecture.name if self.document.architecture else ""
        return f"the spec {name} {'is proved' if self.holds else 'is NOT proved'}"

    def _rows(self) -> list[Row]:
        return [(check.name, check.detail) for check in self.checks]


@dataclass(frozen=True, eq=False, repr=False)
class Spec(Proof):
    """A spec that was derived from a network, with its proof. It can be passed as `spec=`."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self._architecture.name

    @property
    def text(self) -> str:
        """The YAML."""
        return self._architecture.text

    @property
    def dims(self) -> Mapping[str, DimRecord]:
        """Every set of units that move together."""
        return self._architecture.dims

    @public()
    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the YAML, for `spec=` here and `--arch` of the commands.

        Raises:
            UsageError, SystemFailure: it exists and `force` is not given, or cannot be written.

        Example:
            >>> rebasin.derive(model_a, "4x32").save("net.yaml").name
            'net.yaml'
        """
        return save_file(Path(path), self.text.encode(), force=force)

    @property
    def _architecture(self) -> ArchitectureRecord:
        assert self.document.architecture is not None
        return self.document.architecture


@public(DeriveKeywords)
def derive(network: str | nn.Module, inputs: Any = None, **options: Unpack[DeriveKeywords]) -> Spec:
    """Derive the spec of a network from its own code and prove it on it, as `rebasin arch derive` does.

    Args:
        network: a module, `package.module:function`, or the folder of a model of transformers or diffusers.
        inputs: what the network is run on: a tensor, a tuple of arguments, a dict of keywords, or sizes as
            "4x3x32x32" and "4x16:1000" (token ids). None: a guess by its first layer, of which a warning tells.
        options: checkpoint: whose keys and sizes must be covered. network_option, set, seed, max_seconds. progress.

    Returns:
        The spec: `text`, `holds`, `dims`, `save`. One that could not be proved is returned, too, and is false.

    Raises:
        UsageError: there is nothing to run it on. ContentError: the network cannot be used.

    Example:
        >>> spec = rebasin.derive(model_a, torch.randn(4, 32))
        >>> spec.holds, [dim.size for dim in spec.dims.values() if not dim.fixed]
        (True, [8, 8])
        >>> rebasin.align(model_a, model_b, spec=spec).document.architecture.name == spec.name
        True
    """
    talk = Talk(bars=options.get("progress", False))
    from rebasin_cli.pipeline.derive import DeriveRequest, derive_architecture

    named: dict[str, Any] = {}
    for keyword, field in (
        ("network_option", "options"),
        ("set", "sizes"),
        ("seed", "seed"),
        ("max_seconds", "seconds"),
    ):
        if options.get(keyword) is not None:
            named[field] = options[keyword]  # type: ignore[literal-required]
    if isinstance(inputs, str):
        named["inputs"], inputs = inputs, None
    if options.get("checkpoint") is not None:
        named["checkpoint"] = given_model("the checkpoint", options["checkpoint"], talk).source
    return Spec(derive_architecture(DeriveRequest(_network(network, inputs), **named), talk))


@public(ProveKeywords)
def prove(spec: SpecName, network: str | nn.Module | None = None, **options: Unpack[ProveKeywords]) -> Proof:
    """Prove a spec: permute the real network at random; its outputs must not change. As `rebasin arch prove` does.

    Args:
        spec: a shipped one by name, a file, or what `derive` returned.
        network: a module, or `package.module:function`; None: the networks that a shipped spec's name stands for.
        options: inputs: what a module is run on, else a guess. set, config: sizes that shapes do not tell. seed.
            progress.

    Returns:
        The proof, which is true if it holds.

    Raises:
        UsageError: no network is known for the spec. ContentError: the spec does not fit the network.

    Example:
        >>> spec = rebasin.derive(model_a, "4x32")
        >>> bool(rebasin.prove(spec, model_b, inputs="4x32"))
        True
    """
    talk = Talk(bars=options.get("progress", False))
    choice = requests.spec_choice({"spec": spec})
    inputs, config = options.get("inputs"), options.get("config")
    if network is None and inputs is not None:
        raise UsageError("inputs= are for a network, and none is named", remedy="prove(spec, network, inputs=…)")
    named: dict[str, Any] = {"sizes": options["set"]} if options.get("set") is not None else {}
    if options.get("seed") is not None:
        named["seed"] = options["seed"]
    request = ProveRequest(
        choice.arch or "", None if network is None else _network(network, inputs),
        config=Path(config) if config is not None else None, text=choice.text, **named,
    )  # fmt: skip
    return Proof(prove_architecture(request, talk))


def _network(network: str | nn.Module, inputs: Any) -> NetworkName:
    """The network with its inputs.

    Raises:
        UsageError: inputs beside code that returns its own.
    """
    if not isinstance(network, str):
        return requests.given_network(network, inputs)
    if inputs is not None:
        raise UsageError(f"inputs= go with a module, and {network} returns its own", remedy="name sizes: '4x3x32x32'")
    return network
