"""The steps that several commands share: open, scan, match, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch

from rebasin_cli.checkpoints import (
    Checkpoint,
    Outputs,
    as_bytes,
    as_elements,
    give_freed_memory_back,
    open_checkpoint,
    require_finite,
    scan,
    stream_checkpoint,
    write_checkpoint,
)
from rebasin_cli.errors import ContentError, UsageError
from rebasin_cli.matching import MatchResult, Trial
from rebasin_cli.matching.similarity.contributions import sweep_work
from rebasin_cli.permutation import Permutation, permute_tensor
from rebasin_cli.pipeline.binding import Pair
from rebasin_cli.pipeline.examples import DataRequest
from rebasin_cli.pipeline.finite import FiniteReader
from rebasin_cli.pipeline.fitting import prepare_fitting
from rebasin_cli.pipeline.listener import Advance, Listener
from rebasin_cli.pipeline.methods import MatchChoice, Running, missing_data, run_method
from rebasin_cli.pipeline.record import input_record
from rebasin_cli.pipeline.stopping import stopping
from rebasin_cli.pipeline.threads import pool, resolve_threads
from rebasin_cli.report.document import InputRecord
from rebasin_cli.report.figures import loss_text
from rebasin_cli.spec import Layout

GPU_WORK = 1 << 33
"""Multiply-adds of a sweep from which on a GPU is worth it: a core does as many while a CUDA context is being made."""


@dataclass(frozen=True, slots=True)
class Source:
    """An input as the user named it (`-` for a pipe), and the file that holds it."""

    path: Path
    shown: Path

    @staticmethod
    def file(path: Path) -> Source:
        """A file that is read where it lies."""
        return Source(path, path)


def open_source(source: Source, listener: Listener) -> Checkpoint:
    """Open a checkpoint and pass on what the reader has to say about it."""
    give_freed_memory_back()
    checkpoint = open_checkpoint(source.path, named="FILE" if str(source.shown) == "-" else None)
    for note in checkpoint.notes:
        listener.remark(note)
    return checkpoint


def scan_sources(
    opened: Mapping[str, tuple[Source, Checkpoint]],
    listener: Listener,
    expected: Mapping[str, str | None] | None = None,
    heads: dict[str, Mapping[str, int]] | None = None,
) -> dict[str, InputRecord]:
    """Read each checkpoint once: finite values, sha256.

    Args:
        expected: sha256 by role that an earlier command saw.
        heads: takes a checksum of every tensor's first bytes, by role.

    Raises:
        ContentError: a value that is not finite, or a file that has changed since.
    """
    records = {}
    for role, (source, checkpoint) in opened.items():
        with listener.phase(f"checking {source.shown.name}", checkpoint.nbytes, "bytes") as advance:
            result = scan(checkpoint, advance)
        require_finite(checkpoint, result)
        if heads is not None:
            heads[role] = result.heads
        known = (expected or {}).get(role)
        if known is not None and known != result.sha256:
            raise ContentError(
                f"{source.shown} has changed since the run document was made: "
                f"its sha256 is {result.sha256[:12]}…, the document says {known[:12]}…",
                remedy="run `rebasin align` again on the files as they are now",
            )
        records[role] = input_record(source.shown, result.sha256)
    return records


def with_data(
    choice: MatchChoice, data: DataRequest | None, pair: Pair, device: str, listener: Listener
) -> MatchChoice:
    """The choice with the examples its method looks at, if it looks at any.

    Raises:
        UsageError: there are none. RebasinError: they do not fit the network.
    """
    if not choice.looks_at_data:
        return choice
    if data is None or (data.path or data.fit) is None:
        raise missing_data(choice, judged=data is not None and data.judges)
    fitting = prepare_fitting(data, pair.layout, pair.a, choice.method, device, listener)
    return replace(choice, fitting=fitting)


def match(
    pair: Pair, choice: MatchChoice, device: str, listener: Listener, inputs: Mapping[str, InputRecord]
) -> MatchResult:
    """Match B onto A, with progress and what the outcome means.

    Args:
        inputs: A and B as they were scanned.
    """
    threads = resolve_threads(choice.threads)
    with ExitStack() as stack, ExitStack() as bar:
        check = stack.enter_context(stopping(choice.time_budget, save=choice.on_interrupt == "save"))
        executor = None if choice.looks_at_data else stack.enter_context(pool(threads))
        advance: Advance = bar.enter_context(listener.phase("reading for the match"))

        def begin(title: str, of: int, unit: str) -> None:
            nonlocal advance
            bar.close()
            advance = bar.enter_context(listener.phase(title, of, unit))

        def on_step(sweep: int, step: int, of: int, objective: float) -> None:
            """How many sweeps there will be nobody knows, so that every sweep has a bar of its own."""
            if step == 1:
                begin(f"matching, sweep {sweep + 1}", of, "steps")
            advance(1)
            if step == of:
                listener.detail(f"sweep {sweep + 1}: objective {objective:.8g}")
            check()

        def on_trial(trial: Trial) -> None:
            advance(1)
            listener.detail(f"{trial.name}: objective {trial.objective:.8g}")

        on_several = partial(begin, "matching from several starts", unit="starts")
        running = Running(device, check, on_step, on_several, on_trial, executor, threads)
        result = run_method(pair, choice, running)
    for note in result.notes:
        listener.warn(note)
    if result.losses:
        listener.remark(
            f"the midpoint's loss on examples held apart: {loss_text(result.losses[0])} after weight matching, "
            f"{loss_text(min(result.losses))} at its lowest in {len(result.losses) - 1} epochs"
        )
    elif result.stop == "max-sweeps":
        listener.warn(
            f"stopped after {choice.max_sweeps} sweeps, before the objective came to rest; "
            "a larger --max-sweeps goes on"
        )
    if result.stop == "time":
        listener.warn("the time budget ended before the match did: this is the best that was found until then")
    if result.stop == "interrupted":
        listener.warn("interrupted: this is the best that was found until then")
    if result.stop == "nothing-to-move":
        listener.warn("no dim may move, so that B stays as it is")
    else:
        tell_identity(result.permutation, listener, inputs)
    return result


def tell_identity(
    permutation: Permutation, listener: Listener, inputs: Mapping[str, InputRecord] | None = None
) -> None:
    """Say so if nothing moves, or if nothing can be gained by moving: once.

    Args:
        inputs: A and B as they were scanned, where there are two.
    """
    a, b = (inputs or {}).get("a"), (inputs or {}).get("b")
    if a and b and a.sha256 is not None and a.sha256 == b.sha256:
        listener.warn("A and B are the same file: the identity is the optimum, and there is nothing to align")
    elif permutation and not permutation.count_moved():
        listener.warn(
            "the identity is the optimum that was found: B's units already lie in A's order "
            "(fine-tunes of one network, or aligned before), and aligning changes nothing"
        )


def exact_reader(permutation: Permutation, layout: Layout, source: Checkpoint) -> Callable[[str], torch.Tensor]:
    """Key → the bytes of the permuted tensor; bit-exact for every dtype, as no value is ever decoded."""

    def elements(key: str) -> torch.Tensor:
        return as_elements(source.read_raw(key), source.infos[key])

    def read(key: str) -> torch.Tensor:
        if not layout.tensors[key].pieces:
            return source.read_raw(key)
        return as_bytes(permute_tensor(permutation, layout, key, elements), source.infos[key])

    return read


def write_weights(
    target: Path | BinaryIO,
    source: Checkpoint,
    read: Callable[[str], torch.Tensor],
    *,
    metadata: Mapping[str, str],
    outputs: Outputs,
    listener: Listener,
    finite: bool | None = None,
) -> None:
    """Write a checkpoint like `source` to a path, where it appears with the other outputs, or into a pipe at once.

    Args:
        finite: count values that are not finite, which mixing can make of finite ones, and refuse them (True) or warn
            of them (False); None where what is written was scanned before.

    Raises:
        ContentError: some are refused; nothing appears at `target` then.
    """
    name = target.name if isinstance(target, Path) else "to stdout"
    at_once = bool(finite) and not isinstance(target, Path)
    reader = FiniteReader(read, source.infos, at_once=at_once) if finite is not None else None
    read = reader or read
    with listener.phase(f"writing {name}", source.nbytes, "bytes") as advance:
        if isinstance(target, Path):
            write_checkpoint(target, source, read, metadata=metadata, on_bytes=advance, outputs=outputs)
        else:
            stream_checkpoint(target, source, read, metadata=metadata, on_bytes=advance)
    if reader and finite:
        reader.check()
    elif reader and reader.counts:
        listener.warn(f"{name}: {reader.found()}")


def resolve_device(name: str) -> str:
    """`auto` is CUDA where there is some.

    Raises:
        UsageError: `cuda` was asked for and is not there.
    """
    if name == "cpu":
        return name
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("--device cuda: torch sees no CUDA device", remedy="leave --device away, or use --device cpu")
    return "cuda" if available else "cpu"


def matching_device(choice: MatchChoice, layout: Layout) -> str:
    """Where weights are matched: `auto` leaves small networks to the CPU, which is done before a GPU has begun.

    Raises:
        UsageError: as `resolve_device`.
    """
    device = resolve_device(choice.device)
    small = choice.device == "auto" and not choice.looks_at_data and sweep_work(layout) < GPU_WORK
    return "cpu" if small else device
