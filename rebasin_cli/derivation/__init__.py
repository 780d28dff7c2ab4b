"""Deriving a permutation spec from a network's own code: a search, then a proof.

`colouring` and `passes` are what the search stands on, `search` finds the dims, `reading` writes them as patterns,
`late` finds what axes alone cannot show, `writing` makes the spec, and `derive` is the whole of it.
"""
