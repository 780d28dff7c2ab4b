"""Why a spec does not fit a checkpoint, and the error that says so."""

from __future__ import annotations

from dataclasses import dataclass

from rebasin_cli.errors import ContentError
from rebasin_cli.spec.binding.claims import MOST_FAULTS
from rebasin_cli.spec.binding.prefixes import options_for
from rebasin_cli.spec.language.permutation_spec import Fault, PermutationSpec


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why a spec does not fit a checkpoint: the faults under the best prefix.

    Attributes:
        odd: the keys on disk that no line matches, if all else fits.
        patterns: the `--ignore` patterns that match these keys alone.
        claimed: whether every tensor has its line, and only what the lines say does not fit.
    """

    spec: PermutationSpec
    prefix: str
    faults: tuple[Fault, ...]
    odd: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    claimed: bool = False

    @property
    def counted(self) -> str:
        """`3 differences`."""
        if len(self.faults) >= MOST_FAULTS:
            return f"more than {MOST_FAULTS:,} differences"
        return f"{len(self.faults)} difference{'s' if len(self.faults) != 1 else ''}"


def mismatch_error(mismatch: Mismatch, shown: int = 8) -> ContentError:
    """The error for a spec that does not fit, with its first differences."""
    spec, faults = mismatch.spec, mismatch.faults
    lines = [f"the spec `{spec.name}` does not fit this checkpoint ({mismatch.counted})"]
    for fault in faults[:shown]:
        lines.append(f"  - {fault.what}{f'; {fault.remedy}' if fault.remedy else ''}")
    if len(faults) > shown:
        lines.append(f"  - and {len(faults) - shown} more")
    line = next((p.line for p in faults if p.line), 0)
    return ContentError(
        "\n".join(lines),
        where=(spec.at(line) if line else str(spec.path.name))
        + (f"; keys are shown without `{mismatch.prefix}`" if mismatch.prefix else ""),
        remedy=f"all else fits: leave them alone with {options_for(mismatch.patterns)}, or extend the spec"
        if mismatch.odd
        else "name the right spec with --arch, leave tensors alone with --ignore PATTERN, or extend the spec",
    )
