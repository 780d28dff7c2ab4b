"""The groups in which specs are listed: every shipped one is in exactly one of them."""

from __future__ import annotations

from rebasin_cli.spec import shipped_specs
from rebasin_cli.spec.kinds import KINDS, OTHERS, kind_of


def test_every_shipped_spec_is_of_one_kind() -> None:
    assert sorted(name for names in KINDS.values() for name in names) == sorted(shipped_specs())


def test_the_kind_of_a_spec_is_the_group_that_names_it() -> None:
    assert {name: kind_of(name) for names in KINDS.values() for name in names} == {
        name: kind for kind, names in KINDS.items() for name in names
    }
    assert kind_of("somebody-s-own") == OTHERS
