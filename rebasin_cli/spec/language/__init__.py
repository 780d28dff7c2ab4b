"""The spec language, from YAML to a parsed spec; here is what all of it shares: limits, and the references in braces.

Each limit is far above every shipped spec, and keeps a hostile spec below a second.

Key templates and dim names have the same references: `{i}`, `{i+1}`, `{prev c}`, `{<l}`, `{*}`. A variable of one
letter binds a number; a longer one binds a word (letters, digits, `_`, `-`; no dot).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

LONGEST_FILE = 1 << 18
"""Bytes of a spec file: the longest that ships has 8,000. A parsed byte of YAML takes up to 500 bytes of memory."""

LONGEST_TEXT = 1000
"""Characters of a key, pattern or expression: the longest line that ships has 237. It also limits nesting."""

MOST_ALTERNATIVES = 1000
"""Keys that the alternatives `{a,b}` of one template expand to."""

MOST_LINES = 5000
"""Key templates of a spec, alternatives and parts expanded: 242 at most in the shipped specs."""

MOST_LEAVES = 200_000
"""Parts of axes beyond one for each name of a pattern: `{<l}` makes them quadratic in the layers. A DenseNet-264 has
20,000, a mixture of experts with 100,000 tensors none."""

MOST_COMPARED = 1_000_000
"""Dims that names with choices (`{prev c}`, `{<l}`) are compared with: quadratic in the layers, too."""

MOST_OPEN = 3
"""Wildcards and words of one template whose end is open (see `template`): matching takes (length of the key)^this."""

LARGEST_SIZE = (1 << 31) - 1
"""A size that config.json, `--set` or the spec gives."""

Value = int | str
Bindings = Mapping[str, Value]


class Pick(Enum):
    """Which of the observed values a reference means."""

    SAME = ""
    PREV = "prev"
    NEXT = "next"
    FIRST = "first"
    LAST = "last"
    BELOW = "<"
    ALL = "*"


@dataclass(frozen=True, slots=True)
class Ref:
    """One `{…}`: a variable, an offset to it, or a choice among the values observed."""

    variable: str
    offset: int = 0
    pick: Pick = Pick.SAME

    def __str__(self) -> str:
        if self.pick is Pick.ALL:
            return "{*}"
        if self.pick is Pick.BELOW:
            return f"{{<{self.variable}}}"
        if self.pick is not Pick.SAME:
            return f"{{{self.pick.value} {self.variable}}}"
        return f"{{{self.variable}{self.offset:+d}}}" if self.offset else f"{{{self.variable}}}"

    @property
    def is_range(self) -> bool:
        """Whether it means a list of values (`{<l}`, `{*}`)."""
        return self.pick in (Pick.BELOW, Pick.ALL)

    @property
    def is_number(self) -> bool:
        """Whether the variable binds a number."""
        return binds_number(self.variable)

    def value(self, bindings: Bindings) -> Value:
        """The value of a SAME reference under `bindings`."""
        bound = bindings[self.variable]
        return bound + self.offset if isinstance(bound, int) else bound


def binds_number(variable: str) -> bool:
    """One letter binds a number, a longer name a word."""
    return len(variable) == 1


_REF = re.compile(
    r"(?:(?P<all>\*)|<\s*(?P<below>[A-Za-z])|(?P<pick>prev|next|first|last)\s+(?P<picked>[A-Za-z]\w*)"
    r"|(?P<name>[A-Za-z]\w*)\s*(?P<offset>[+-]\s*\d{1,9})?)"
)


def parse_ref(body: str) -> Ref:
    """Parse the text between the braces.

    Raises:
        ValueError: not one of the forms; the text lists them.
    """
    match = _REF.fullmatch(body.strip())
    if match is None or match["name"] in ("prev", "next", "first", "last"):
        raise ValueError(
            f"`{{{body}}}` is none of {{i}}, {{i+1}}, {{i-1}}, {{prev i}}, {{next i}}, {{first i}}, {{last i}}, "
            "{<i}, {*}"
        )
    if match["all"]:
        return Ref("*", pick=Pick.ALL)
    if match["below"]:
        return Ref(match["below"], pick=Pick.BELOW)
    if match["pick"]:
        return Ref(match["picked"], pick=Pick(match["pick"]))
    offset = int(match["offset"].replace(" ", "")) if match["offset"] else 0
    if offset and not binds_number(match["name"]):
        raise ValueError(
            f"`{{{body}}}`: `{match['name']}` binds a word (more than one letter), so nothing can be added to it"
        )
    return Ref(match["name"], offset=offset)
