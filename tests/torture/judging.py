"""What is counted of attempts, and the one table at the end."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tests.torture.attempt import Attempt

CONTRACT = frozenset({0, 1, 2, 3, 4})
CANARY = "pwned"  # what hostile files want to be made, in the folder they are read in
FORGED = "error: forged"  # what they want to be printed as a line of its own
SCRIPT = "<script>alert"  # what they want to stand in a page
_BREAK = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_FORGED = re.compile(f"(?:^|[{_BREAK}]) {{0,3}}{FORGED}")  # a message's own further lines begin in the fifth column
# Controls but line ends and tabs, what turns the direction of text, tags that nobody sees, and bytes that are no text.
_RAW = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ufeff\\ud800-\\udfff"
    "\\U000e0000-\\U000e007f]"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be, with the name that reproduces it."""

    name: str
    command: str
    what: str


@dataclass
class Row:
    """The counts of one attack.

    Attributes:
        codes: ends outside the contract (exit codes, signals, tracebacks, failures without a message).
        raw: attempts that printed control or bidirectional characters or bytes that are no text; forged: that
            printed a line as the file wanted it.
        message: bytes of the longest text on stderr.
        executed, sockets, outside: attempts that ran code, opened a socket, wrote outside their folders.
        seconds, megabytes: the worst, the latter beyond what a child starts with.
        torn: inputs that changed, or outputs that are no whole file of one run; left: temporary files that stayed.
    """

    attack: str
    attempts: int = 0
    codes: int = 0
    raw: int = 0
    forged: int = 0
    message: int = 0
    executed: int = 0
    sockets: int = 0
    outside: int = 0
    hangs: int = 0
    seconds: float = 0.0
    megabytes: float = 0.0
    torn: int = 0
    left: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(
        self,
        name: str,
        command: str,
        done: Attempt,
        allowed: Collection[int] = CONTRACT,
        *,
        told: bool = True,
    ) -> None:
        """Count one attempt.

        Args:
            told: whether a failure has to be told on stderr.
        """
        found: list[tuple[str, str]] = []
        text = done.printed
        if done.ended.hung:
            found.append(("hangs", f"no end after {done.ended.seconds:.0f} s"))
        elif done.ended.code not in allowed:
            found.append(("codes", f"exit code {done.ended.code}: {_last_line(text)}"))
        elif "Traceback (most recent call last)" in text:
            found.append(("codes", "a traceback"))
        elif told and done.ended.code in (1, 2, 3, 4) and "error:" not in text:
            found.append(("codes", f"exit code {done.ended.code} without a message"))
        if raw := _RAW.search(text):
            found.append(("raw", f"prints {text[max(0, raw.start() - 30) : raw.end() + 10]!a}"))
        elif " --html" in command and SCRIPT.encode() in done.out:
            found.append(("raw", "a script in the page"))
        if _FORGED.search(text):
            found.append(("forged", f"prints `{FORGED}` as a line"))
        for kind, counter in (("code", "executed"), ("socket", "sockets"), ("outside", "outside")):
            what = next((what for each, what in done.seen if each == kind), None)
            if what:
                found.append((counter, what))
        for counter, what in found:
            self.count(counter, name, command, what)
        self.attempts += 1
        self.message = max(self.message, len(done.err) or len(done.out) * (done.ended.code != 0))
        self.seconds = max(self.seconds, done.ended.seconds)
        self.megabytes = max(self.megabytes, done.ended.megabytes)

    def count(self, counter: str, name: str, command: str, what: str) -> None:
        """One more of a counter, with what was found."""
        setattr(self, counter, getattr(self, counter) + 1)
        self.findings.append(Finding(name, command, what))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a folder before an attempt, to be told from those after it."""

    files: Mapping[str, tuple[int, int, int]]

    @classmethod
    def of(cls, folder: Path) -> Snapshot:
        """Size, time and inode of everything below a folder that can be looked at."""
        found = {}
        for path in folder.rglob("*"):
            status = path.lstat()
            found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns, status.st_ino)
        return cls({name: each for name, each in found.items() if not (folder / name).is_dir()})

    def judge(self, row: Row, name: str, command: str, folder: Path, code: int, *, whole: bool = False) -> None:
        """Count inputs that changed, canaries, temporary files, and outputs of a failed run.

        Args:
            whole: outputs are looked at elsewhere: they may be there if only the telling failed.
        """
        after = Snapshot.of(folder).files
        own = command.partition(" --resume ")[2]  # an output, too
        for file, status in self.files.items():
            if after.get(file) != status and file != own:
                row.count("torn", name, command, f"{file} was changed")
        for file in after.keys() - self.files.keys():
            if CANARY in file:
                row.count("executed", name, command, f"made {file}")
            elif re.search(r"(^|/)\.", file):
                row.count("left", name, command, f"left {file}")
            elif code and not whole and not (code in (1, 3) and file.endswith(".json")):
                row.count("torn", name, command, f"exit code {code}, and there is {file}")


def is_whole(path: Path) -> bool:
    """Whether every tensor of a file can be read."""
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                file.get_tensor(key)
    except (OSError, SafetensorError):
        return False
    return True


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if "bug in rebasin" in line] or text.strip().splitlines()[-1:]
    return ascii(lines[0][:160]) if lines else "nothing is printed"


def table(rows: Sequence[Row]) -> str:
    """All rows as Markdown."""
    names = [each.name for each in fields(Row) if each.name != "findings"]
    lines = [names, *([_shown(getattr(row, name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    dashes = ["-" * width for width in widths]
    shown = [
        "| "
        + " | ".join(
            cell.ljust(w) if at == 0 else cell.rjust(w) for at, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in (lines[0], dashes, *lines[1:])
    ]
    return "\n".join(shown)


def _shown(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
