"""The spec language, from YAML to a parsed spec; and its limits.

Each limit is far above every shipped spec, and keeps a hostile spec below a second.
"""

from __future__ import annotations

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
