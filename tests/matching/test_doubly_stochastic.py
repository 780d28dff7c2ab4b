"""The Sinkhorn operator: sums of one, and the gradient that going back through thousands of iterations gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rebasin_cli.matching import doubly_stochastic as module
from rebasin_cli.matching.doubly_stochastic import doubly_stochastic


def scores(n: int, size: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (size * torch.randn(n, n, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 1e4])
def test_sums_are_one_however_large_the_scores(size: float) -> None:
    matrix, _ = doubly_stochastic(scores(9, size).detach(), max_iterations=20_000)
    torch.testing.assert_close(matrix.sum(1), torch.ones(9, dtype=torch.float64))
    assert float((matrix.sum(0) - 1).abs().max()) <= module.TOLERANCE
    assert bool((matrix >= 0).all())


@pytest.mark.parametrize(("n", "size"), [(2, 1.0), (7, 0.3), (7, 3.0), (20, 2.0)])
def test_the_gradient_is_that_of_all_iterations(n: int, size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOLERANCE", 1e-13)
    monkeypatch.setattr(module, "RIDGE", 0.0)
    upstream = scores(n, 1.0, seed=1).detach()
    one, two = scores(n, size), scores(n, size)
    matrix, _ = doubly_stochastic(one, max_iterations=20_000)
    (matrix * upstream).sum().backward()  # type: ignore[no-untyped-call]
    unrolled: Tensor = two
    for _ in range(3000):
        unrolled = unrolled - unrolled.logsumexp(0, keepdim=True)
        unrolled = unrolled - unrolled.logsumexp(1, keepdim=True)
    (unrolled.exp() * upstream).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(matrix, unrolled.exp())
    assert one.grad is not None
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-6, atol=1e-10)


def test_a_warm_start_saves_iterations_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOLERANCE", 1e-10)
    with torch.no_grad():
        cold, columns = doubly_stochastic(scores(9, 3.0), max_iterations=20_000)
        warm, kept = doubly_stochastic(scores(9, 3.0), columns)
    torch.testing.assert_close(warm, cold, rtol=1e-7, atol=1e-10)
    assert torch.equal(kept, columns)  # which every further iteration would change


def test_near_a_permutation_the_gradient_is_finite() -> None:
    sharp = (80 * torch.eye(6)[torch.randperm(6, generator=torch.Generator().manual_seed(0))]).requires_grad_()
    matrix, _ = doubly_stochastic(sharp)
    (matrix * torch.arange(36.0).reshape(6, 6)).sum().backward()  # type: ignore[no-untyped-call]
    assert sharp.grad is not None
    assert bool(sharp.grad.isfinite().all())
    assert float(sharp.grad.abs().max()) < 1e-3
