"""Similarity matrices of every kind that matching meets, made from a seed: for the tests and the benchmarks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Rng = np.random.Generator


def _normal(rng: Rng, *shape: int) -> Matrix:
    return rng.standard_normal(shape, dtype=np.float32)


def _planted(rng: Rng, n: int, noise: float) -> Matrix:
    """B is A with its units permuted, plus noise: similarity of two layers with 2 n inputs."""
    a = _normal(rng, n, 2 * n)
    b = np.empty_like(a)
    b[rng.permutation(n)] = a + np.float32(noise) * _normal(rng, n, 2 * n)
    return np.asarray(a @ b.T)


def _spectrum(rng: Rng, n: int, power: float) -> Matrix:
    """Two independent layers whose inputs have a decaying spectrum."""
    decay = np.arange(1, n + 1, dtype=np.float32) ** np.float32(-power)
    return np.asarray((_normal(rng, n, n) * decay) @ _normal(rng, n, n).T)


def _trained_like(rng: Rng, n: int) -> Matrix:
    """Non-negative features with a common mean, a decaying spectrum and a weak common signal."""
    decay = np.arange(1, n + 1, dtype=np.float32) ** np.float32(-0.5)
    a = _normal(rng, n, n) * decay
    b = np.empty_like(a)
    b[rng.permutation(n)] = np.float32(0.3) * a + _normal(rng, n, n) * decay
    return np.asarray(np.maximum(a, 0) @ np.maximum(b, 0).T)


def _dead(rng: Rng, n: int, rows: bool, columns: bool) -> Matrix:
    """A quarter of the units of A, of B, or of both never fire."""
    matrix = _normal(rng, n, n)
    if rows:
        matrix[rng.permutation(n)[: n // 4]] = 0
    if columns:
        matrix[:, rng.permutation(n)[: n // 4]] = 0
    return matrix


def _one_column(rng: Rng, n: int) -> Matrix:
    matrix = np.zeros((n, n), np.float32)
    matrix[:, n // 2] = _normal(rng, n)
    return matrix


def _copies(rng: Rng, n: int) -> Matrix:
    """Every row four times."""
    return np.repeat(_normal(rng, n // 4 + 1, n), 4, axis=0)[:n]


FAMILIES: dict[str, Callable[[Rng, int], Matrix]] = {
    "gaussian": lambda rng, n: _normal(rng, n, n),
    "strong-signal": lambda rng, n: _planted(rng, n, 0.3),
    "weak-signal": lambda rng, n: _planted(rng, n, 8),
    "very-weak-signal": lambda rng, n: _planted(rng, n, 40),
    "low-rank": lambda rng, n: np.asarray(_normal(rng, n, 16) @ _normal(rng, 16, n)),
    "rank-one": lambda rng, n: np.asarray(_normal(rng, n, 1) @ _normal(rng, 1, n)),
    "spectrum": lambda rng, n: _spectrum(rng, n, 0.5),
    "steep-spectrum": lambda rng, n: _spectrum(rng, n, 1.0),
    "trained-like": _trained_like,
    "integers": lambda rng, n: rng.integers(0, 10, (n, n)).astype(np.float32),
    "many-integers": lambda rng, n: rng.integers(0, 1000, (n, n)).astype(np.float32),
    "binary": lambda rng, n: (rng.random((n, n)) < 2 / n).astype(np.float32),
    "sparse": lambda rng, n: _normal(rng, n, n) * (rng.random((n, n)) < 0.02),
    "zeros": lambda rng, n: np.zeros((n, n), np.float32),
    "constant-rows": lambda rng, n: np.repeat(_normal(rng, n, 1), n, axis=1),
    "constant-columns": lambda rng, n: np.repeat(_normal(rng, 1, n), n, axis=0),
    "one-column": _one_column,
    "one-row": lambda rng, n: np.ascontiguousarray(_one_column(rng, n).T),
    "duplicate-rows": _copies,
    "duplicate-columns": lambda rng, n: np.ascontiguousarray(_copies(rng, n).T),
    "dead-rows": lambda rng, n: _dead(rng, n, True, False),
    "dead-columns": lambda rng, n: _dead(rng, n, False, True),
    "dead-both": lambda rng, n: _dead(rng, n, True, True),
}


def make_similarity(family: str, n: int, seed: int = 0) -> Matrix:
    """An (n, n) float32 matrix of the family; the same for the same seed."""
    return FAMILIES[family](np.random.default_rng(seed), n)
