"""Solvers: which unit of B belongs where. Pure over mappings of tensors; they know neither files nor terminals.

Read `reference` first: the paper's loop on one page. Every method takes a problem, resources and options of its own,
and returns a `MatchResult`.
"""
