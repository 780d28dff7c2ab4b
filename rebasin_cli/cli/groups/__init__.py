"""The options that several commands have, each defined once, in groups that build one value each.

A command takes a group as one parameter (see `grouping`). An option that was not given is None where that matters, so
that it can be refused where nothing reads it; its default stands where it is used.
"""
