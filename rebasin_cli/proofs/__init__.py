"""Proofs of specs: real networks, and what shows that a permutation keeps their function."""
