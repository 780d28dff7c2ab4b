"""Options that name tensors, as a message offers them."""

from __future__ import annotations

import pytest

from rebasin_cli.spec.binding.left_over import options_for


def test_options_are_quoted_for_a_shell() -> None:
    assert options_for(("encoder_k.*", "queue")) == "--ignore 'encoder_k.*' --ignore queue"
    assert options_for(("a\x1b[[]31m", "it's")) == r"""--ignore $'a\033[[]31m' --ignore 'it'"'"'s'"""


@pytest.mark.parametrize("patterns", [("x" * 300,), tuple(f"layer.{i}" for i in range(1000))])
def test_options_that_would_be_cut_are_not_offered(patterns: tuple[str, ...]) -> None:
    assert options_for(patterns) == "--ignore PATTERN for each of them"
