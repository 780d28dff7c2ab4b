"""The shipped specs as the yardstick of the derivation: `python -m tests.derived [SPECS…]` writes the table.

For every network on which a shipped spec is proved, a spec is derived from the network alone, and compared with the
shipped one as a group. Results are kept in a folder, so that a run goes on where the last one ended; rows of
networks that were not measured stay as they are.
"""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_cli.derivation.derive import Derivation, derive
from rebasin_cli.errors import RebasinError
from rebasin_cli.evaluation.running import in_dtype, tensors_in
from rebasin_cli.proofs.subjects import SUBJECTS, Subject
from rebasin_cli.spec import Request, bind, shipped_spec
from tests.derivation.narrow import NARROW
from tests.derivation.yardstick import compare, groups

TABLE = Path(__file__).parent / "derivation" / "DERIVED.md"
KEPT = Path(__file__).parent.parent / ".cache" / "derived"

KINDS = ("equal", "finer", "coarser", "missing")

CASES = {spec: (*subjects, *NARROW.get(spec, ())) for spec, subjects in SUBJECTS.items()}
LARGEST = 800_000
"""Parameters of the largest network that a spec is derived from here."""

EXPLAINED: Mapping[str, str] = {
    "albert": "beside a classifier of sequences the pooled state, and beside an untied head the vectors of tokens, "
    "have an order of their own; the shipped spec ties them, as other classes have the same keys",
    "flux": "one coordinate of all given places is zero, so that a part of queries and keys is not rotated here; "
    "the shipped spec leaves it alone, as other places may differ in it",
    "sd-vae": "run as a whole, the latents are hidden and may be permuted; the shipped spec leaves them alone, as the "
    "UNet reads them, too",
}
"""Why a derived spec differs from the shipped one."""

OTHER_KEYS = "the same network under other keys, or several networks in one file"
TOO_LARGE = "too large; narrower ones of its kind are compared"
NOWHERE = "too large; the narrowest has 686 tensors, which is some 2,700 runs"
"""Why a network is not compared."""

Row = dict[str, Any]


class TooLongError(BaseException):
    """A derivation did not end in time; no handler of errors on its way catches it."""


@contextmanager
def at_most(seconds: float) -> Any:
    """Raise in the main thread when it has computed for so long."""

    def over(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def only(module: nn.Module, names: Iterable[str]) -> None:
    """Let a module return the outputs that its spec is proved by."""
    wanted = frozenset(names)

    def chosen(part: nn.Module, inputs: Any, outputs: Any) -> Mapping[str, Tensor]:
        return {f"proved {n}": t for n, t in tensors_in(outputs).items() if n in wanted}

    module.register_forward_hook(chosen)


def derived_from(subject: Subject, seconds: float) -> Derivation:
    """The spec of a subject's network, from the network alone."""
    assert subject.network is not None
    module, inputs = subject.network
    only(module, subject.run({key: tensor.clone() for key, tensor in subject.state.items()}, None))
    given = inputs if isinstance(inputs, Mapping) else tuple(inputs)
    return derive(module, in_dtype(given, torch.float64), subject.name, seconds=seconds)


def measured(spec: str, subject: Subject, seconds: float) -> tuple[Row, str]:
    """A row of the table, and the YAML that was derived."""
    row: Row = {"network": subject.name, "parameters": sum(t.numel() for t in subject.state.values())}
    if subject.network is None:
        return row | {"skipped": OTHER_KEYS}, ""
    if row["parameters"] > LARGEST:
        return row | {"skipped": NOWHERE if spec.endswith("-unet") else TOO_LARGE}, ""
    start = process_time()
    try:
        with at_most(seconds):
            memory = {key: tensor.detach().clone() for key, tensor in subject.network[0].state_dict().items()}
            found = derived_from(subject, 4 * seconds)  # the machine may be busy
        shapes = {key: tuple(tensor.shape) for key, tensor in subject.state.items()}
        shipped = bind(shipped_spec(spec), shapes, Request(subject.config, subject.overrides))
        compared = compare(*groups((shipped, subject.state), (found.proof.layout, memory), unread=found.unread))
    except TooLongError:
        return row | {"seconds": seconds, "failed": f"not derived in {seconds:.0f} s of one core"}, ""
    except RebasinError as error:
        return row | {"seconds": process_time() - start, "failed": str(error).splitlines()[0]}, ""
    row |= {
        "shipped": len(shipped.moving()),
        "derived": len(found.proof.layout.moving()),
        "passes": found.passes,
        "seconds": round(process_time() - start, 1),
        "holds": found.holds,
        "proof": found.proof.describe(),
        "complete": found.complete,
        "held": found.held,
        "free": found.free,
        **asdict(compared),
    }
    return row, found.text


def run(names: Iterable[str], kept: Path, seconds: float, *, afresh: bool) -> None:
    """Derive what is not kept yet, one network after the other."""
    kept.mkdir(parents=True, exist_ok=True)
    wanted = [(at, spec) for spec in names for at in range(len(CASES[spec]))]
    for at, spec in sorted(wanted, key=lambda case: case[0]):  # the first network of every spec comes first
        file = kept / f"{spec}-{at}.json"
        if file.exists() and not afresh:
            continue
        row, text = measured(spec, CASES[spec][at](), seconds)
        file.write_text(json.dumps(row, indent=1))
        file.with_suffix(".yaml").write_text(text)
        print(f"{spec}-{at}", line(spec, row), flush=True)


def line(spec: str, row: Row) -> str:
    """One row of the Markdown table."""
    head = [f"`{spec}`", row["network"], f"{row['parameters']:,}"]
    if "skipped" in row or "failed" in row:
        return _cells(*head, *[""] * 7, round(row.get("seconds", 0)), row.get("failed") or f"skipped: {row['skipped']}")
    notes = [] if row["holds"] else [f"**not proved**: {row['proof']}"]
    notes += [] if row["complete"] else ["not all is decided"]
    for kind in ("finer", "coarser", "missing", "more"):
        families = list(dict.fromkeys(dim.split(".")[0] for dim in row[kind]))
        notes += [f"{kind}: {', '.join(families)}"] if families else []
    notes += [EXPLAINED[spec]] if spec in EXPLAINED and any(row[kind] for kind in (*KINDS[1:], "more")) else []
    counts = [len(row[kind]) for kind in KINDS]
    return _cells(
        *head, row["shipped"], row["derived"], *counts, row["passes"], round(row["seconds"]), "; ".join(notes)
    )


def table(kept: Path, before: str) -> str:
    """The page: a row for all that is kept, and the rows that it had of other networks."""
    wanted = [(spec, at) for spec in SUBJECTS for at in range(len(CASES[spec]))]
    files = [(spec, kept / f"{spec}-{at}.json") for spec, at in wanted]
    fresh = [line(spec, json.loads(file.read_text())) for spec, file in files if file.exists()]
    rows = {tuple(_cells_of(row)[:2]): row for row in (*_rows_of(before), *fresh)}
    order = {f"`{spec}`": at for at, spec in enumerate(SUBJECTS)}
    found = sorted((row for row in rows.values() if _cells_of(row)[0] in order), key=lambda r: order[_cells_of(r)[0]])
    cells = [_cells_of(row) for row in found]
    compared = [row for row in cells if row[_DIMS]]
    skipped = [row[-1] for row in cells if row[-1].startswith("skipped")]
    failed = len(cells) - len(compared) - len(skipped)
    totals = {kind: sum(int(row[_DIMS + 2 + at]) for row in compared) for at, kind in enumerate(KINDS)}
    dims = sum(int(row[_DIMS]) for row in compared)
    share = (totals["equal"] + totals["finer"]) / max(dims, 1)
    nowhere = [spec for spec in order if spec not in {row[0] for row in compared}]
    odd = [row for row in compared if _differs(row) and not _explained(row)]
    return "\n".join(
        [
            "# Derived specs beside the shipped ones",
            "",
            f"At least 95 % of dims are to be equal or finer, and every difference explained. {share:.1%} are;",
            f"{sum(map(_differs, compared))} rows have a difference, {len(odd)} of them without an explanation.",
            "",
            "Written by `python -m tests.derived`: for the network behind each proof of a shipped spec, a spec is",
            "derived from the network alone and compared as a group. A dim of the shipped spec is *equal* where the",
            "derived group has all of it, *finer* where it has more, *coarser* where it has a part, *missing* where it",
            "has nothing of it. Seconds are those of one core (of some networks wall clock, an upper bound).",
            "",
            f"{len(compared)} networks of {len({row[0] for row in compared})} specs were compared,",
            f"{len(skipped)} skipped ({sum('too large' in why for why in skipped)} too large,",
            f"{sum(OTHER_KEYS in why for why in skipped)} under other keys or several in one file), {failed} failed.",
            f"Of {dims} dims {totals['equal']} are equal, {totals['finer']} finer,",
            f"{totals['coarser']} coarser, {totals['missing']} missing.",
            f"Compared nowhere, as too large or as networks above under other keys: {', '.join(nowhere)}.",
            f"Not proved: {sum('**not proved**' in row[-1] for row in compared)} derived specs.",
            "",
            _cells("spec", "network", "parameters", "dims", "derived", *KINDS, "passes", "seconds", "note"),
            _cells(*["---"] * 12),
            *found,
            "",
        ]
    )


_DIMS = 3  # the cell of a row that says how many dims the shipped spec has


def _differs(row: Sequence[str]) -> bool:
    """Whether a derived spec says more or less than the shipped one."""
    return any(int(cell) for cell in row[_DIMS + 3 : _DIMS + 2 + len(KINDS)]) or "more: " in row[-1]


def _explained(row: Sequence[str]) -> bool:
    return EXPLAINED.get(row[0].strip("`"), "\n") in row[-1]


def _rows_of(page: str) -> list[str]:
    return [row for row in page.splitlines() if row.startswith("| `")]


def _cells_of(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def _cells(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Derive what is not kept, and write the table of all that is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("specs", nargs="*", help="names of shipped specs; all without any")
    parser.add_argument("--kept", type=Path, default=KEPT, help="the folder of results")
    parser.add_argument("--seconds", type=float, default=120.0, help="of one core, for one network")
    parser.add_argument("--afresh", action="store_true", help="derive again what is kept")
    parser.add_argument("--table", action="store_true", help="derive nothing, write the table of what is kept")
    options = parser.parse_args()
    if not options.table:
        run(options.specs or SUBJECTS, options.kept, options.seconds, afresh=options.afresh)
    TABLE.write_text(table(options.kept, TABLE.read_text()))


if __name__ == "__main__":
    main()
