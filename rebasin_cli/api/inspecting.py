"""`inspect`: what is in a network, and which spec describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from rebasin_cli.api import requests
from rebasin_cli.api.calls import Talk, public
from rebasin_cli.api.keywords import InspectKeywords
from rebasin_cli.api.models import given_model
from rebasin_cli.api.showing import Row, Shown
from rebasin_cli.pipeline.inspect import inspect as inspect_source
from rebasin_cli.report.document import DimRecord, RunDocument, TensorRecord

if TYPE_CHECKING:
    from rebasin_cli.api.models import Model


@dataclass(frozen=True, eq=False, repr=False)
class Inspection(Shown):
    """What `inspect` found.

    Attributes:
        document: the run document, as the command prints it.
    """

    document: RunDocument

    @property
    def spec(self) -> str | None:
        """The name of the spec that fits; None if none does."""
        return self.document.architecture.name if self.document.architecture else None

    @property
    def dims(self) -> Mapping[str, DimRecord]:
        """Every set of units that move together: its size, its owner, and why it stays, if it does."""
        return self.document.architecture.dims if self.document.architecture else {}

    @property
    def tensors(self) -> Mapping[str, TensorRecord]:
        """Every tensor: its dtype, its shape, and how the spec reads its axes."""
        return self.document.tensors or {}

    def _title(self) -> str:
        spec = f"the spec {self.spec} fits" if self.spec else "no spec fits"
        return f"{len(self.tensors)} tensors, {spec}"

    def _rows(self) -> list[Row]:
        return [
            (name, f"{dim.size} units{f' within {dim.owner}' if dim.owner else ''}, {dim.fixed or 'may move'}")
            for name, dim in self.dims.items()
        ]


@public(InspectKeywords)
def inspect(model: Model, **options: Unpack[InspectKeywords]) -> Inspection:
    """Show what is in a network, and how it would be read, as `rebasin inspect CKPT` does. No values are looked at.

    A network that no spec describes is shown all the same, with a warning that names the nearest specs.

    Args:
        model: a module, a state dict or a path.
        options: spec, set, freeze, ignore: as for `align`. network, network_option, inputs: code of which a spec is
            derived where none fits. progress.

    Raises:
        ContentError: it cannot be opened, or the spec that is named does not fit.

    Example:
        >>> found = rebasin.inspect(a)
        >>> found.spec, found.dims["h.0"].size
        ('mlp', 8)
    """
    talk = Talk(bars=options.get("progress", False))
    given = given_model("the network", model, talk)
    choice, data = requests.spec_choice(options), requests.network_request(options, (given,))
    return Inspection(inspect_source(given.source, choice, talk, data))
