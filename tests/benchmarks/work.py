"""One measurement in a process of its own, so that its peak of memory is its own: prints JSON.

    python -m tests.benchmarks.work make|paper|ours|floor CASE WEIGHTS FOLDER

`make` writes a.safetensors and b.safetensors into the folder; the others read them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, cast

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.opening import open_checkpoint
from rebasin_cli.checkpoints.outputs import Outputs
from rebasin_cli.checkpoints.writer import tensors_bytes
from rebasin_cli.matching.assignment.solve import solve_assignment
from rebasin_cli.matching.descent.weights import match_by_weights
from rebasin_cli.matching.objective import inner_product
from rebasin_cli.matching.problem import Problem
from rebasin_cli.matching.similarity.blocks import block_terms, blocks
from rebasin_cli.permutation.gather import permute_tensor
from rebasin_cli.permutation.values import Permutation
from rebasin_cli.process import give_freed_memory_back
from rebasin_cli.spec import Layout
from tests.benchmarks.cases import CASES, Case, Weights, make_weights
from tests.benchmarks.paper import weight_matching

Figures = dict[str, Any]
CPU = torch.device("cpu")


def make(case: Case, weights: Weights, folder: Path) -> Figures:
    """Write both checkpoints, as the command wants them."""
    layout = case.layout(folder)
    for name, tensors in zip("ab", make_weights(case, layout, weights), strict=True):
        (folder / f"{name}.safetensors").write_bytes(tensors_bytes(tensors, metadata={}))
    if case.config is not None:
        (folder / "config.json").write_text(json.dumps(case.config))
    return {"command": case.command, "goal": case.goal, "memory": case.memory}


def paper(case: Case, weights: Weights, folder: Path) -> Figures:
    """The paper's loop between reading everything and writing everything."""
    layout, a, b = _opened(case, folder)
    began, cpu = perf_counter(), process_time()
    in_a, in_b = ({key: tensors[key] for key in tensors} for tensors in (a, b))
    read = perf_counter() - began
    found = weight_matching(layout, in_a, in_b)
    matched = process_time() - cpu
    permutation = Permutation(found.permutation)
    phases = {"read": read, **found.seconds, **_applied(layout, permutation, in_b, folder)}
    return _figures(layout, a, b, permutation, phases, matched) | {"solves": found.solves, "sweeps": found.sweeps}


def ours(case: Case, weights: Weights, folder: Path) -> Figures:
    """Ours on the files, as the command does it."""
    layout, a, b = _opened(case, folder)
    cpu = process_time()
    found = match_by_weights(Problem(layout, a, b))
    matched = process_time() - cpu
    phases = {**found.seconds, **_applied(layout, found.permutation, b, folder)}
    figures = _figures(layout, a, b, found.permutation, phases, matched)
    return figures | {"solves": found.solves, "sweeps": len(found.objective) - 2, "gap": found.gap}


def floor(case: Case, weights: Weights, folder: Path) -> Figures:
    """What cannot be saved: each tensor read once, one product for every side that moves, one assignment a dim.

    The products are timed on operands that already lie as they should, and the assignments from no prices.
    """
    layout, a, b = _opened(case, folder)
    seconds = {"read": 0.0, "similarity": 0.0, "assignment": 0.0}
    began = process_time()
    for tensors in (a, b):
        for key in tensors:
            tensors[key]
    seconds["read"] = process_time() - began
    identity = Permutation.identity(layout)
    for block in blocks(layout):
        matrix: Tensor | None = None
        for term in block_terms(Problem(layout, a, b), block, identity, dtype=torch.float32, device=CPU):
            one, two = (side.flatten(0, -2).contiguous() for side in (term.a, term.b))
            if matrix is None or len(matrix) != len(one):
                matrix = torch.zeros(len(one), len(one))
            began = process_time()
            matrix.addmm_(one, two.T)
            seconds["similarity"] += process_time() - began
        assert matrix is not None
        began = process_time()
        solve_assignment(matrix)
        seconds["assignment"] += process_time() - began
    return {"seconds": seconds, "matched": sum(seconds.values())}


def _opened(case: Case, folder: Path) -> tuple[Layout, Checkpoint, Checkpoint]:
    give_freed_memory_back()
    torch.set_num_threads(1)
    torch.ones(256, 256) @ torch.ones(256, 256)  # load the library
    one, two = (open_checkpoint(folder / f"{name}.safetensors") for name in "ab")
    return case.layout(folder), one, two


def _applied(layout: Layout, permutation: Permutation, b: Mapping[str, Tensor], folder: Path) -> dict[str, float]:
    began = perf_counter()
    moved = {key: permute_tensor(permutation, layout, key, b.__getitem__) for key in layout.tensors}
    middle = perf_counter()
    with Outputs(force=True) as outputs:
        outputs.write(folder / "out.safetensors", tensors_bytes(moved, metadata={}))
    return {"apply": middle - began, "write": perf_counter() - middle}


def _figures(
    layout: Layout, a: Checkpoint, b: Checkpoint, permutation: Permutation, phases: Mapping[str, float], matched: float
) -> Figures:
    peak = peak_memory()
    return {
        "seconds": dict(phases),
        "matched": matched,
        "objective": inner_product(layout, a, b, permutation),
        "peak": peak,
    }


def peak_memory() -> int:
    """Largest resident size of this program so far, bytes (getrusage would count the program before it, too)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


STEPS: Mapping[str, Callable[[Case, Weights, Path], Figures]] = {
    "make": make, "paper": paper, "ours": ours, "floor": floor,
}  # fmt: skip


def main() -> None:
    step, case, weights, folder = sys.argv[1:]
    print(json.dumps(STEPS[step](CASES[case], cast(Weights, weights), Path(folder))))


if __name__ == "__main__":
    main()
