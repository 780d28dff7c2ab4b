"""What aligning many checkpoints at once costs, beside one command for each.

    python -m tests.benchmarks.many --count 1000

Makes random perceptrons 784-128-128-10, which are harder to match than trained ones, aligns all with one command and a
few of them with a command each, and prints processor seconds of both: wall seconds depend on who else works.

    python -m tests.benchmarks.many --count 200 --workers 1 2 4

does it on the workers of a scheduler, with one thread each, and in this process, and compares the bytes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.small import ROOT, environment, mlp_state, save

WIDTHS = (784, 128, 128, 10)


def cost(folder: Path, *arguments: str) -> tuple[float, float]:
    """Processor and wall seconds of a command, with as many threads as there are cores."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    surroundings = {name: value for name, value in environment().items() if name != "OMP_NUM_THREADS"}
    call = [sys.executable, "-m", "rebasin_cli", *arguments, "-q", "--format", "text"]
    subprocess.run(call, cwd=folder, env=surroundings | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, time.perf_counter() - began


def on_workers(folder: Path, first: str, counts: list[int]) -> None:
    """Print wall seconds on so many workers, which are there already; all have the bytes of a run without them."""
    from tests.cluster import cluster

    _, alone = cost(folder, "align", first, "--from", "list.txt", "-o", "alone", "--threads", "1")
    expected = {path.name: path.read_bytes() for path in (folder / "alone").iterdir()}
    print(f"one process, one thread: {alone:.1f} s", flush=True)
    for count in counts:
        (place := folder / f"cluster{count}").mkdir()
        with cluster(place, count) as started:
            seconds = []
            for i in range(2):  # the first has workers import what they run
                out = folder / f"out{count}.{i}"
                words = ("align", first, "--from", "list.txt", "-o", out.name, "--cluster", str(started.file))
                seconds.append(cost(folder, *words)[1])
                assert {path.name: path.read_bytes() for path in out.iterdir()} == expected
        print(f"{count} workers: {seconds[0]:.1f} s, and again {seconds[1]:.1f} s; the same bytes", flush=True)


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--alone", type=int, default=5, help="how many get a command of their own")
    parser.add_argument("--workers", type=int, nargs="+", help="on so many workers of a cluster, one after the other")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [str(save(folder / f"m{i:05}.safetensors", mlp_state(i, WIDTHS))) for i in range(given.count + 1)]
        (folder / "list.txt").write_text("\n".join(paths[1:]))
        if given.workers:
            on_workers(folder, paths[0], given.workers)
            return
        spent, wall = cost(folder, "align", paths[0], "--from", "list.txt", "-o", "out")
        print(
            f"{given.count} at once: {spent:.1f} s of processor, {wall:.1f} s, {spent / given.count:.3f} s each",
            flush=True,
        )
        again, _ = cost(folder, "align", paths[0], "--from", "list.txt", "-o", "out", "--resume", "out.rebasin.json")
        print(f"again with all of them there: {again:.1f} s of processor", flush=True)
        alone = [
            cost(folder, "align", paths[0], path, "-o", f"{i}.safetensors")
            for i, path in enumerate(paths[1:][: given.alone])
        ]
        each = sum(spent for spent, _ in alone) / len(alone)
        print(f"one by one: {each:.2f} s of processor each, {each * given.count / spent:.1f} times as much")


if __name__ == "__main__":
    main()
