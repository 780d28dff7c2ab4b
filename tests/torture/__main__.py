"""`python -m tests.torture`: all attacks, one table; exit code 1 if anything was found."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

from tests.torture import faults, files, hostile, mutated
from tests.torture.judging import Row, table
from tests.torture.stock import stocked

ATTACKS = ("files", "hostile", "mutated", "faults")
# Of each attack the attempts of a run: as it is, with --quick, and with --sample, which `make test` takes.
_MOST = {"files": (500, 20, 0), "hostile": (4_000, 200, 30), "mutated": (1_500, 100, 14), "faults": (700, 60, 10)}
_PROCESSES = (40, 0, 0)  # that get signals
_SHOWN = 400


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="ATTACK [NAME]", help="one attack, of it what begins with NAME")
    parser.add_argument("--most", type=int, help="attempts of each attack")
    parser.add_argument("--quick", dest="bound", action="store_const", const=1, default=0, help="a few minutes")
    parser.add_argument("--sample", dest="bound", action="store_const", const=2, help="a few seconds, without files")
    parser.add_argument("--seed", type=int, default=0, help="of mutations and of the times of signals")
    parser.add_argument("--json", action="store_true", help="rows and findings as JSON")
    options = parser.parse_args()
    if options.only and options.only[0] not in ATTACKS:
        parser.error(f"--only {options.only[0]}: the attacks are {', '.join(ATTACKS)}")
    return options


def _rows(options: argparse.Namespace) -> Iterator[Row]:
    only, part = [*(options.only or [""]), "", ""][:2]
    most = {name: options.most or (None if part else counts[options.bound]) for name, counts in _MOST.items()}
    if only == "files" or (not only and most["files"]):
        yield from files.run(most["files"] or _MOST["files"][0], part)
    if only == "files":
        return
    with stocked() as stock:
        if only in ("", "hostile"):
            yield from hostile.run(stock, part, most["hostile"], models=options.bound < 2)
        if only in ("", "mutated"):
            yield from mutated.run(stock, part, most["mutated"], options.seed)
        if only in ("", "faults"):
            processes = _PROCESSES[options.bound]
            yield from faults.run(stock, part, most["faults"], options.seed, processes=processes)


def _told(rows: list[Row]) -> str:
    findings = [(row, finding) for row in rows for finding in row.findings]
    lines = [f"{row.attack} | {f.name} | {f.command} | {f.what}" for row, f in findings[:_SHOWN]]
    if len(findings) > _SHOWN:
        lines.append(f"… and {len(findings) - _SHOWN} more")
    if lines:
        lines.append("Again: python -m tests.torture --only ATTACK NAME, with the seed if one was given")
    return "\n".join(lines)


def main() -> int:
    """Run what was asked for, and print it."""
    options = _options()
    rows = list(_rows(options))
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print(f"{table(rows)}\n\n{_told(rows)}".rstrip())
    return int(any(row.findings for row in rows))


sys.exit(main())
