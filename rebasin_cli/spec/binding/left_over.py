"""Tensors without a line, lines without a tensor, and the error that says so; and patterns of keys to leave alone."""

from __future__ import annotations

import glob
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.safe_text import printable, shell_word
from rebasin_cli.spec.language import Value
from rebasin_cli.spec.language.permutation_spec import Fault, Line, PermutationSpec
from rebasin_cli.spec.language.template import skeleton_of

if TYPE_CHECKING:
    from rebasin_cli.spec.binding.bind import Prefix
    from rebasin_cli.spec.binding.claims import Claim, Matcher, Shape

MOST_FAULTS = 5000
"""Tensors without a line, or lines without a tensor, after which a spec is given up. A second network in the file may
add many."""

HINTS = 20  # faults that come with the nearest templates, which are slow to find; an error shows fewer


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why a spec does not fit a checkpoint: the faults under the best prefix.

    Attributes:
        odd: the keys on disk that no line matches, if all else fits.
        patterns: the `--ignore` patterns that match these keys alone.
        claimed: whether every tensor has its line; filled: also every line its tensors, and only what they say misfits.
    """

    spec: PermutationSpec
    prefix: str
    faults: tuple[Fault, ...]
    odd: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    claimed: bool = False
    filled: bool = False

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


def first_without_line(
    matcher: Matcher, shapes: Mapping[str, Shape], prefix: Prefix, covered: Mapping[tuple[str, int], bool]
) -> Iterator[Fault]:
    """The faults of the first tensors of kinds that are not covered, as many as let a spec be given up."""
    found = 0
    for key, shape in shapes.items():
        name = prefix.strip(key)
        skeleton = skeleton_of(name)
        if shape and not covered.get((skeleton, len(shape))):
            yield no_line_for(matcher, name, shape, matcher.named(skeleton), hint=found < HINTS)
            found += 1
        if found == MOST_FAULTS:
            break


def missing_tensors(spec: PermutationSpec, claims: Mapping[str, Claim], present: Mapping[str, str]) -> list[Fault]:
    """Required lines that match no tensor, and single keys that are absent although their siblings exist.

    Args:
        present: the keys that are there, with their skeletons.
    """
    faults: list[Fault] = []
    used: dict[int, list[Claim]] = {}
    for claim in claims.values():
        used.setdefault(id(claim.line), []).append(claim)
    required = _required(spec, present)
    unused = any(id(line) not in used for line in required)
    by_skeleton: dict[str, list[str]] = {}
    for name, skeleton in present.items() if unused else ():
        by_skeleton.setdefault(skeleton, []).append(name)
    groups: dict[tuple[str, frozenset[str]], dict[tuple[Value, ...], Claim]] = {}
    for (text, number), lines in _families(required).items():
        if not any(id(line) in used or _matches_any(line, by_skeleton) for line in lines):
            faults.append(_nothing_fits(text, number, lines))
        for line in lines:
            group = groups.setdefault((line.template.scope, line.template.variables), {})
            for claim in used.get(id(line), ()):
                group.setdefault(tuple(claim.bindings[v] for v in sorted(line.template.variables)), claim)
    for line in (ln for ln in required if id(ln) in used):
        names = sorted(line.template.variables)
        for values, other in groups[line.template.scope, line.template.variables].items():
            key = line.template.key(dict(zip(names, values, strict=True)))
            if key is not None and key not in present:
                faults.append(Fault(f"{key} is absent, although {other.key} is there", line.line))
                if len(faults) >= MOST_FAULTS:
                    return faults
    return faults


def lines_without_kind(spec: PermutationSpec, present: Mapping[str, str]) -> list[Fault]:
    """The required lines that no kind of tensor fits, of `missing_tensors`' faults those that kinds alone tell.

    Args:
        present: of every kind one key, with its skeleton.
    """
    kinds = set(present.values())
    return [
        _nothing_fits(text, number, lines)
        for (text, number), lines in _families(_required(spec, present)).items()
        if all(line.template.skeletons and kinds.isdisjoint(line.template.skeletons) for line in lines)
    ]


def _required(spec: PermutationSpec, present: Collection[str]) -> Sequence[Line]:
    """The lines that need a tensor: not the optional ones, and not those of a part that is absent as a whole."""
    parts = {line.needed_with for line in spec.lines if line.needed_with}
    absent = {part for part in parts if not any(key.startswith(part) for key in present)}
    needed = (line for line in spec.lines if not line.template.optional and line.section != "ignored")
    return [line for line in needed if line.needed_with not in absent]


def _families(lines: Iterable[Line]) -> Mapping[tuple[str, int], Sequence[Line]]:
    """The lines by the text that they are alternatives of."""
    families: dict[tuple[str, int], list[Line]] = {}
    for line in lines:
        families.setdefault((line.template.family, line.line), []).append(line)
    return families


def _nothing_fits(text: str, number: int, lines: Sequence[Line]) -> Fault:
    return Fault(f"no tensor fits `{text}`", number, absent=lines[0])


def _matches_any(line: Line, by_skeleton: Mapping[str, Collection[str]]) -> bool:
    skeletons = line.template.skeletons or tuple(by_skeleton)
    return any(line.template.match(key) is not None for each in skeletons for key in by_skeleton.get(each, ()))


def no_line_for(matcher: Matcher, key: str, shape: Shape, lines: Sequence[Line], *, hint: bool) -> Fault:
    """Say why none of the lines fits: a wrong number of axes, or the nearest templates (with `hint`)."""
    for line in lines:
        if line.pattern is not None and line.template.match(key) is not None:
            return Fault(
                f"{key} has {len(shape)} axes {list(shape)}, its line `{line.template.text}: {line.pattern}` "
                f"has {len(line.pattern.axes)}",
                line.line,
                key=key,
            )
    near = nearest_templates(matcher.spec, key) if hint else ()
    nearest = " or ".join(f"`{line.template.text}` (line {line.line})" for line in near)
    for line in near:
        met = line.template.word_for_number(key)
        if met is not None:
            return Fault(
                f"no line speaks of {key} {list(shape)}: `{{{met[0]}}}` is one letter, so it binds a number, and "
                f"`{met[1]}` is a word",
                line.line,
                f"give it a longer name, as in {{{met[0] * 2}}}, and use that in the dims",
                key,
                unlisted=True,
            )
    return Fault(
        f"no line speaks of {key} {list(shape)}",
        near[0].line if near else 0,
        f"the nearest are {nearest}" if nearest else "",
        key,
        unlisted=True,
    )


def nearest_templates(spec: PermutationSpec, key: str) -> Sequence[Line]:
    """The two lines whose templates are most similar to `key`."""
    return _nearest(spec, skeleton_of(key))


@lru_cache(maxsize=4096)
def _nearest(spec: PermutationSpec, skeleton: str) -> tuple[Line, ...]:
    """Cached by kind of key: comparing texts is slow, and thousands of keys are of a few kinds."""

    def likeness(line: Line) -> float:
        texts = line.template.skeletons or (line.template.text,)
        return max(SequenceMatcher(None, text, skeleton, autojunk=False).ratio() for text in texts)

    scored = sorted(((likeness(line), line) for line in spec.lines), key=lambda pair: -pair[0])
    return tuple(line for score, line in scored[:2] if score > 0.5)


def fits_but_for(mismatch: Mismatch, shapes: Mapping[str, Shape]) -> ContentError:
    """The error where a spec has a line for every tensor but a few."""
    odd = [key for key in mismatch.odd if shapes[key]]
    shown = ", ".join(f"{key} {list(shapes[key])}" for key in odd[:4])
    more = f" and {len(odd) - 4} more" if len(odd) > 4 else ""
    # A matrix under the network's prefix is most likely a layer of it, which moved units pass through.
    inside = [key for key in odd if len(shapes[key]) > 1 and key.startswith(mismatch.prefix)]
    options = options_for(mismatch.patterns)
    remedy = f"if they are no part of the network (of a loss, a metric, a copy of it): {options}"
    if inside:
        remedy = (
            f"if they are layers of the network, it needs a spec of its own; only if it never reads them: {options}"
        )
    return ContentError(
        f"`{mismatch.spec.name}` fits but for {len(odd)} tensor{'s' * (len(odd) > 1)} of which it says nothing: "
        f"{shown}{more}",
        where=f"the other keys begin with {mismatch.prefix}" if mismatch.prefix else "",
        remedy=remedy,
    )


def nothing_fits(mismatches: Sequence[Mismatch]) -> ContentError:
    """The error where no spec fits, with what the nearest ones differ in first."""
    remedy = (
        "name the network's code with --network MODULE:FACTORY, and a spec is derived from it (of a folder with a "
        "config.json by `rebasin arch derive FOLDER -o FILE.yaml`); or write one: architectures/README.md"
    )
    if not mismatches:
        return ContentError(
            "no architecture fits this checkpoint, and none is near",
            remedy=remedy,
        )
    rows = []
    for mismatch in sorted(mismatches, key=lambda m: len(m.faults)):
        rows.append(f"  - {mismatch.spec.name}: {mismatch.counted}, first of them")
        rows += [f"      {p.what}{f' ({mismatch.spec.at(p.line)})' if p.line else ''}" for p in mismatch.faults[:3]]
    return ContentError(
        "no architecture fits this checkpoint; the nearest are\n" + "\n".join(rows),
        remedy=f"name one with --arch, leave odd tensors alone with --ignore PATTERN, or {remedy}",
    )


def count_beginning(ordered: Sequence[str], beginning: str) -> int:
    """How many of the keys, which are sorted, begin with this, which ends with a dot."""
    low = bisect_left(ordered, beginning)
    return bisect_left(ordered, f"{beginning[:-1]}/", low) - low  # the character after the dot


def beginnings(key: str) -> Iterator[str]:
    """`a.b.c` as `a.` and `a.b.`."""
    return accumulate(f"{word}." for word in key.split(".")[:-1])


_LONGEST = 2000  # characters of options that a message can take


def keys_matching(patterns: Sequence[str], keys: Iterable[str]) -> set[str]:
    """The keys that some pattern matches."""
    return {key for key in keys if any(fnmatchcase(key, pattern) for pattern in patterns)} if patterns else set()


def require_matches(patterns: Sequence[str], *sides: Collection[str]) -> None:
    """Check that every pattern matches a tensor, and that each checkpoint keeps some tensors.

    Raises:
        UsageError: a pattern that fits nothing, or patterns that leave nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(key, pattern) for keys in sides for key in keys):
            raise UsageError(f"--ignore {pattern} matches no tensor", remedy="`rebasin inspect` lists the tensors")
    for keys in sides:
        if keys and len(keys_matching(patterns, keys)) == len(keys):
            raise UsageError("--ignore leaves no tensor of the checkpoint", remedy="ignore fewer of them")


def patterns_for(keys: Sequence[str], all_keys: Iterable[str]) -> tuple[str, ...]:
    """Few patterns that match `keys` and no other key of `all_keys`, such as `encoder_k.*`."""
    if not keys:
        return ()
    wanted = set(keys)
    others = sorted(key for key in all_keys if key not in wanted)
    return tuple(dict.fromkeys(_pattern(key, others) for key in keys))


def options_for(patterns: Sequence[str]) -> str:
    """The patterns as options for a shell, or a placeholder if they are too long to show."""
    options = " ".join(f"--ignore {shell_word(pattern)}" for pattern in patterns)
    return options if options == printable(options, _LONGEST) else "--ignore PATTERN for each of them"


def _pattern(key: str, others: Sequence[str]) -> str:
    """A pattern for `key` that none of the `others`, which are sorted, matches."""
    free = next((beginning for beginning in beginnings(key) if not count_beginning(others, beginning)), None)
    return glob.escape(key) if free is None else f"{glob.escape(free)}*"
