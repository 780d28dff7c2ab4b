"""What a user said about the spec, by itself: the option parser needs it before anything large is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rebasin_cli.report.document import ArchitectureRecord


@dataclass(frozen=True, slots=True)
class SpecChoice:
    """What the user said about the spec: `--arch`, `--set`, `--freeze`, `--ignore`.

    Attributes:
        text: the YAML of a spec whose file may be gone: a document or a permutation file holds it.
        symmetry: what may be done to units beside permuting them: `--symmetry`.
    """

    arch: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    text: str = ""
    symmetry: str = "permutations"

    @property
    def signs(self) -> bool:
        """Whether units may have their signs turned."""
        return self.symmetry == "signs"

    @staticmethod
    def of_record(record: ArchitectureRecord) -> SpecChoice:
        """The choice that an earlier command made."""
        options = record.options
        return SpecChoice(
            record.file or record.name, options.set, options.freeze, options.ignore, record.text,
            options.symmetry or "permutations",
        )  # fmt: skip
