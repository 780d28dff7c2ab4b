"""Why some dims stay at identity: the spec fixes them, the user froze them, or their size is unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from rebasin_cli.errors import UsageError
from rebasin_cli.spec.binding.equations import Sizes
from rebasin_cli.spec.binding.instances import dim_text
from rebasin_cli.spec.binding.layout import UNSIZED
from rebasin_cli.spec.binding.resolve import Plus, Resolver
from rebasin_cli.spec.hints import did_you_mean
from rebasin_cli.spec.language.permutation_spec import PermutationSpec, Rule
from rebasin_cli.spec.language.variables import Bindings


def unknown_dims(
    spec: PermutationSpec, axes: Iterable[Plus], sizes: Sizes, owners: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Dims of unknown size, with all dims that share an axis with them or are within them.

    Returns:
        The reason for each dim, and notes for the user.
    """
    reasons: dict[str, str] = {}
    missing: dict[str, None] = {}
    for axis in axes:
        if sizes.total(axis) is not None:
            continue
        names = sorted({_plain_name(str(leaf.size)) for leaf in axis.leaves() if sizes.of(leaf) is None})
        for leaf in axis.leaves():
            if leaf.dim:
                reasons[leaf.dim] = f"{UNSIZED}{', '.join(names)}"
                missing |= dict.fromkeys(names)
    changed = True
    while changed:
        changed = False
        for name, owner in owners.items():
            if owner in reasons and name not in reasons:
                reasons[name] = reasons[owner]
                changed = True
    if not reasons:
        return {}, ()
    families = sorted({name.split(".")[0] for name in reasons})
    wanted = list(dict.fromkeys(str(rule.name.parts[0]) for rule in spec.sizes)) or sorted(missing)
    note = (
        f"dims {', '.join(families)} stay at identity: the shapes do not tell {', '.join(sorted(missing))}; "
        f"give config.json beside the checkpoint, or {' or '.join(f'--set {w}=N' for w in wanted[:3])}"
    )
    return reasons, (note,)


def fixed_dims(rules: Mapping[str, tuple[Rule, Bindings]]) -> dict[str, str]:
    """Dims that the spec keeps at identity, and why it says so."""
    return {name: rule.fixed for name, (rule, _) in rules.items() if rule.fixed}


def frozen_dims(
    spec: PermutationSpec, resolver: Resolver, names: Sequence[str], patterns: Sequence[str]
) -> dict[str, str]:
    """Dims that the user keeps at identity: by name, also one that is another's by `same as`, by family or pattern.

    Raises:
        UsageError: a pattern that fits no dim.
    """
    called = {dim_text(i): resolver.name_of(i) for family in resolver.families.values() for i in family}
    called |= {name: name for name in names}
    reasons: dict[str, str] = {}
    for pattern in patterns:
        frozen = [dim for word, dim in called.items() if fnmatchcase(word, pattern) or word.split(".")[0] == pattern]
        if not frozen:
            near = [name for name in names if name.split(".")[0] == pattern.split(".")[0]]
            listed = near or list(dict.fromkeys(name.split(".")[0] for name in names))
            raise UsageError(
                f"--freeze {pattern}: the spec `{spec.name}` has no such dim here",
                remedy=did_you_mean(pattern, sorted({*called, *(name.split(".")[0] for name in names)}))
                or f"there are {', '.join(listed[:8])}",
            )
        reasons |= dict.fromkeys(frozen, "frozen by --freeze")
    return reasons


def _plain_name(symbol: str) -> str:
    kind, _, name = symbol.partition(":")
    return "a size" if kind == "_" else name.split(".")[0] if kind == "dim" else name
