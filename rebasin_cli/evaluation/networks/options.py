"""What shapes cannot tell about a network, and how a user says it: `--network-option norm=groupnorm1`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rebasin_cli.errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a network.

    Attributes:
        choices: the values it takes; empty for a free one, which the builder parses.
        summary: what it decides and what holds without it.
    """

    name: str
    choices: tuple[str, ...]
    summary: str

    def signature(self) -> str:
        """`norm=layernorm|groupnorm1`."""
        return f"{self.name}={'|'.join(self.choices) or '…'}"


def check_options(family: str, known: tuple[Option, ...], given: Mapping[str, str]) -> None:
    """Refuse options that the family does not have, and values that they do not take.

    Raises:
        UsageError: with the list of the family's options and the nearest one.
    """
    by_name = {option.name: option for option in known}
    for name, value in given.items():
        option = by_name.get(name)
        if option is None:
            hint = did_you_mean(name, by_name)
            listing = ", ".join(o.signature() for o in known)
            raise UsageError(
                f"the {family} network has no option `{name}`" + (f"; {hint}" if hint else ""),
                remedy=f"its options are {listing}",
            )
        if option.choices and value not in option.choices:
            hint = did_you_mean(value, option.choices)
            raise UsageError(
                f"`{value}` is not a value of the {family} network's option `{name}`" + (f"; {hint}" if hint else ""),
                remedy=f"use {option.signature()}",
            )
