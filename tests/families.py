"""The table of families in docs, made from the specs themselves: `python -m tests.families` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rebasin_cli.proofs.subjects import SUBJECTS
from rebasin_cli.spec import PermutationSpec, shipped_spec, shipped_specs
from rebasin_cli.spec.language.permutation_spec import RotationRule, ScaleRule, SignRule

PAGE = Path(__file__).parent.parent / "docs" / "families.md"
BEGIN = "<!-- families: begin (written by `python -m tests.families`) -->"
END = "<!-- families: end -->"


def moving_families(spec: PermutationSpec) -> list[str]:
    """Names of the dims that may move, their numbers left out, in order of first appearance."""
    fixed = {str(rule.name) for rule in spec.rules if rule.fixed and not rule.without and len(rule.name.parts) == 1}
    names = [str(name.parts[0]) for line in spec.lines if line.pattern for name in line.pattern.dim_names()]
    return [name for name in dict.fromkeys(names) if name not in fixed]


def families_of(rules: Sequence[SignRule | ScaleRule | RotationRule]) -> str:
    """Names of the dims of a section, their numbers left out."""
    return ", ".join(f"`{name}`" for name in dict.fromkeys(rule.name.parts[0] for rule in rules)) or "–"


def table() -> str:
    """The Markdown table: one row a spec."""
    head = (
        "spec",
        "for",
        "dims that move",
        "signs",
        "scales",
        "rotations",
        "what stays, and why",
        "networks it is proved on",
    )
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in shipped_specs():
        spec = shipped_spec(name)
        stays = "; ".join(f"{what}: {why}" for what, why in spec.stays) or "–"
        moving = moving_families(spec)
        dims = f"{len(moving)}: {', '.join(f'`{dim}`' for dim in moving)}"
        acting = " | ".join(families_of(rules) for rules in (spec.signs, spec.scales, spec.rotations))
        rows.append(f"| `{name}` | {spec.title} | {dims} | {acting} | {stays} | {len(SUBJECTS.get(name, ()))} |")
    return "\n".join(rows)


def current(text: str) -> str:
    """What stands between the markers of the page."""
    return text.split(BEGIN)[1].split(END)[0].strip()


if __name__ == "__main__":
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}")
