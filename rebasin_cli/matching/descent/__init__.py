"""Coordinate descent on blocks: the paper's weight matching, for every kind of dim."""
