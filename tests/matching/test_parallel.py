"""Independent work through an executor: in order, none left running, and the same result with any number of threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

from rebasin_cli.matching.descent.sweep import Descent
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.frank_wolfe import frank_wolfe_attempts
from rebasin_cli.matching.objective import inner_product
from rebasin_cli.matching.options import Order, WeightsOptions
from rebasin_cli.matching.portfolio import Attempt, best_of, descents, starts_at_once
from rebasin_cli.matching.problem import MatchResult, Problem, Resources, Stop, StopMatching
from rebasin_cli.matching.resources import STRIPE, Budget, add_product, in_order
from rebasin_cli.merging.many import ALGORITHMS, match_many
from rebasin_cli.merging.models import Models
from rebasin_cli.merging.options import Algorithm, ManyOptions
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.spec import bind, load_spec
from tests.merging.test_many import matcher, states
from tests.networks import TINY, tiny_layout, tiny_state


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def test_results_come_in_order_whoever_is_first(pool: ThreadPoolExecutor) -> None:
    later = threading.Event()

    def task(number: int) -> int:
        if number == 0:
            assert later.wait(30)
        if number == 2:
            later.set()
        return number

    assert list(in_order((partial(task, i) for i in range(9)), pool, 3)) == list(range(9))


def test_no_more_are_under_way_than_asked_for(pool: ThreadPoolExecutor) -> None:
    lock = threading.Lock()
    under_way, most = 0, 0

    def task() -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.005)
        with lock:
            under_way -= 1

    assert len(list(in_order([task] * 12, pool, 2))) == 12
    assert most == 2


def test_a_failure_tells_the_others_and_leaves_none_running(pool: ThreadPoolExecutor) -> None:
    told, ended, begun = threading.Event(), threading.Event(), threading.Event()

    def fails() -> None:
        assert begun.wait(30)
        raise ArithmeticError("lost")

    def goes_on() -> None:
        begun.set()
        assert told.wait(30)
        ended.set()

    with pytest.raises(ArithmeticError, match="lost"):
        list(in_order([fails, goes_on], pool, 2, told.set))
    assert ended.is_set()


@pytest.mark.parametrize("shape", [(3 * STRIPE + 7, 40), (STRIPE, 300), (5, 2)])
def test_a_product_has_the_same_bits(shape: tuple[int, int], pool: ThreadPoolExecutor) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*shape, generator=generator) for _ in "ab")
    alone, shared = (torch.ones(shape[0], shape[0]) for _ in range(2))
    add_product(alone, a, b)
    add_product(shared, a, b, pool)
    assert torch.equal(alone, shared)
    torch.testing.assert_close(alone, 1 + a @ b.T)


def _outcome(result: MatchResult) -> object:
    trials = [(trial.name, trial.objective) for trial in result.trials]
    moved = {dim: perm.tolist() for dim, perm in result.permutation.items()}
    return result.objective, result.stop, result.solves, result.solvers, trials, moved


@pytest.mark.parametrize("name", list(TINY))
def test_starts_side_by_side_give_the_same(name: str, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    layout, a, b = tiny_layout(name, tmp_path), tiny_state(name, 1), tiny_state(name, 2)

    def attempts() -> list[Attempt]:
        return [*descents(Problem(layout, a, b), 7, 3), *frank_wolfe_attempts(Problem(layout, a, b))]

    told: list[str] = []
    one = best_of(attempts())
    four = best_of(attempts(), Resources(executor=pool, at_once=4), on_trial=lambda trial: told.append(trial.name))
    assert _outcome(one) == _outcome(four)
    assert told == [attempt.name for attempt in attempts()]


def test_of_equals_the_first_is_kept(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """The second one ends first and reaches as much."""
    layout = tiny_layout("chain", tmp_path)
    second = threading.Event()

    def ends(permutation: Permutation, waits: bool) -> MatchResult:
        assert not waits or second.wait(30)
        second.set()
        return MatchResult("weights", permutation, (1.0, 2.0), "converged", 0, {}, 0)

    one, two = Permutation.identity(layout), Permutation.random(layout, 1)
    attempts = [
        Attempt("one", lambda _: ends(one, waits=True)),
        Attempt("two", lambda _: ends(two, waits=False)),
    ]
    assert best_of(attempts, Resources(executor=pool, at_once=2)).permutation is one


@pytest.mark.parametrize("why", ["time", "interrupted"])
def test_told_to_stop_all_stop_and_the_best_so_far_counts(why: Stop, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    layout, a, b = tiny_layout("residual", tmp_path), tiny_state("residual", 1), tiny_state("residual", 2)
    lock = threading.Lock()
    steps = 0

    def on_step(*_: object) -> None:
        nonlocal steps
        with lock:
            steps += 1
            if steps == 7:
                raise StopMatching(why)

    result = best_of(descents(Problem(layout, a, b), 10**6), Resources(on_step=on_step, executor=pool, at_once=3))
    assert result.stop == why
    assert 1 < len(result.trials) < 12
    assert result.objective[-1] == max(trial.objective for trial in result.trials)
    assert result.objective[-1] == pytest.approx(inner_product(layout, a, b, result.permutation), rel=1e-10)


def test_an_interrupt_ends_what_is_under_way(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """The first one is done when Ctrl-C comes, the second would go on for ever."""
    layout = tiny_layout("chain", tmp_path)
    result = MatchResult("weights", Permutation.identity(layout), (1.0,), "converged", 0, {}, 0)
    begun, told = threading.Event(), threading.Event()

    def endless(resources: Resources) -> MatchResult:
        assert resources.on_step
        begun.set()
        try:
            while True:
                resources.on_step(0, 1, 1, 0.0)
        except StopMatching:
            told.set()
        return result

    def on_trial(_: object) -> None:
        assert begun.wait(30)
        raise KeyboardInterrupt

    attempts = [Attempt("short", lambda _: result), Attempt("endless", endless)]
    with pytest.raises(KeyboardInterrupt) as caught:  # whose traceback keeps every frame alive
        best_of(attempts, Resources(executor=pool, at_once=2), on_trial=on_trial)
    assert caught
    assert told.is_set()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_models_are_matched_alike(algorithm: Algorithm, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    layout, found = tiny_layout("residual", tmp_path), states("residual", 5)
    one = match_many(Models.of(layout, found), matcher(layout, 2), options=ManyOptions(algorithm=algorithm))
    four = match_many(
        Models.of(layout, found),
        matcher(layout, 2),
        Resources(executor=pool, at_once=4),
        options=ManyOptions(algorithm=algorithm),
    )
    assert (one.objective, one.matches) == (four.objective, four.matches)
    assert all(x.equals(y) for x, y in zip(one.permutations, four.permutations, strict=True))


def test_memory_says_how_many_run_side_by_side(tmp_path: Path) -> None:
    layout = tiny_layout("residual", tmp_path)
    assert starts_at_once(layout, 6, None) == 6
    assert starts_at_once(layout, 6, 0) == 1
    # 8 + 7 + 9 units: 1,552 bytes of similarities, three times that of gradients, 576 of the two largest tensors
    assert [starts_at_once(layout, 99, memory) for memory in (13_567, 13_568, 67_839, 67_840)] == [1, 2, 9, 10]


@pytest.mark.parametrize("order", ["forward", "random"])
@pytest.mark.parametrize("name", list(TINY))
def test_steps_side_by_side_find_what_they_would_in_turn(
    name: str, order: Order, tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rebasin_cli.matching.descent.sweep.SMALL_STEP", 0)  # every step is worth a thread here
    layout, a, b = tiny_layout(name, tmp_path), tiny_state(name, 1), tiny_state(name, 2)
    for start in ("identity", "anchored"):
        one = match_by_weights(Problem(layout, a, b), Resources(seed=3), WeightsOptions(start=start, order=order))
        for _ in range(3):
            four = match_by_weights(
                Problem(layout, a, b), Resources(seed=3, executor=pool), WeightsOptions(start=start, order=order)
            )
            assert _outcome(one) == _outcome(four)


def test_steps_that_share_no_tensor_are_under_way_together(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two steps waits until the other one has begun."""
    monkeypatch.setattr("rebasin_cli.matching.descent.sweep.SMALL_STEP", 0)
    path = tmp_path / "apart.yaml"
    path.write_text('tensors:\n  "{i}.weight": _ h.{i}\n')
    layout = bind(load_spec(path), {f"{i}.weight": (7, 5) for i in range(2)})
    a, b = ({f"{i}.weight": torch.randn(7, 5) for i in range(2)} for _ in "ab")
    both = threading.Barrier(2)

    class Meeting(dict):  # type: ignore[type-arg]
        def __getitem__(self, key: str) -> torch.Tensor:
            if threading.current_thread() is not threading.main_thread() and key not in met:
                met.add(key)
                both.wait(30)
            found: torch.Tensor = super().__getitem__(key)
            return found

    met: set[str] = set()
    alone, together = (  # a sweep alone: the objective, too, reads tensors in threads
        Descent(problem, Permutation.identity(layout), torch.float64, torch.device("cpu"), Budget(0), executor)
        for problem, executor in ((Problem(layout, a, b), None), (Problem(layout, Meeting(a), b), pool))
    )
    assert alone.sweep(alone.blocks) == together.sweep(together.blocks)
    assert met == set(a)
    assert together.permutation.equals(alone.permutation)
