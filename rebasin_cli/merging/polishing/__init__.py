"""Weights of a merged network that are fitted to what its members make of examples; no labels are looked at."""
