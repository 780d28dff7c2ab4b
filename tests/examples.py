"""The commands of README and docs, run as they stand there; `python -m tests.examples` writes what they print.

A line of a console block that begins with `$ ` is shown with what it prints below it; in a block without such lines
every line is a command. Pages are run in the order of their lines, each in a folder with the files that they name.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import sys
import tempfile
import termios
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from tests.forked import run_forked
from tests.small import READER, environment

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
COLUMNS = 100

MODULE = """
import numpy, torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.ModuleList(nn.Linear(n, m) for n, m in [(64, 256), (256, 256), (256, 256), (256, 10)])
    def forward(self, x):
        for layer in self.fc[:-1]:
            x = torch.relu(layer(x))
        return self.fc[-1](x)
def make(state=None, act="relu"):
    return Net()
def batches():
    data = numpy.load("digits.npz")
    return torch.from_numpy(data["inputs"]), torch.from_numpy(data["targets"]).long()
def likelihood(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
def margin(outputs, targets):
    two = outputs.topk(2).values
    return float((two[:, 0] - two[:, 1]).mean())
"""
EVALUATE = READER + '\nimport sys\nprint((read(sys.argv[1])[1]["fc.0.weight"] ** 2).mean())\n'


@dataclass
class Workbench:
    """A folder with the files that the pages name, in which their lines are run.

    Attributes:
        folder: where it begins; at: where it is after `cd`.
    """

    folder: Path
    at: Path = field(init=False)

    def __post_init__(self) -> None:
        self.at = self.folder

    def fill(self) -> None:
        """Lay out the trained pair, a third network, data, a module and a program to judge by."""
        shutil.copytree(DATA, self.folder / "tests" / "data")
        for name in "ab":
            shutil.copy(DATA / f"digits_mlp_{name}.safetensors", self.folder / f"{name}.safetensors")
        shutil.copy(DATA / "digits.npz", self.folder)
        a, b = (load_file(self.folder / f"{name}.safetensors") for name in "ab")
        for name, state in (("m1", a), ("m2", b), ("m3", {key: 0.99 * tensor for key, tensor in b.items()})):
            save_file(state, self.folder / f"{name}.safetensors")
        data = np.load(DATA / "digits.npz")
        np.savez(self.folder / "train.npz", inputs=data["inputs"][:200], targets=data["targets"][:200])
        (self.folder / "my_module.py").write_text(MODULE)
        (self.folder / "eval.py").write_text(EVALUATE)

    def run(self, line: str) -> tuple[int, str]:
        """Run a line as a shell would on a terminal of 100 columns: exit code of the last command, and what it printed.

        Of a shell there are pipes, `cd`, `cp` and `mkdir -p`; a stage that is not `rebasin` hands on what it got.
        """
        code, text = 0, b""
        stages = [shlex.split(stage, comments=True) for stage in line.split(" | ")]
        for number, words in enumerate(stages):
            code, text = self._stage(words, text, last=number == len(stages) - 1)
        return code, text.decode().replace("\r\n", "\n")

    def _stage(self, words: list[str], given: bytes, *, last: bool) -> tuple[int, bytes]:
        match words:
            case ["cd", folder]:
                self.at = self.at / folder
            case ["mkdir", "-p", folder]:
                (self.at / folder).mkdir(parents=True, exist_ok=True)
            case ["cp", source, target]:
                shutil.copy(self.at / source, self.at / target)
            case ["rebasin", *arguments]:
                return self._rebasin(arguments, given, terminal=last)
            case _:
                return 0, given
        return 0, b""

    def _rebasin(self, arguments: list[str], given: bytes, *, terminal: bool) -> tuple[int, bytes]:
        reader, writer = pty.openpty() if terminal else os.pipe()
        if terminal:
            termios.tcsetwinsize(writer, (50, COLUMNS))
        surroundings = environment(
            NO_COLOR="1", TERM="xterm", COLUMNS=str(COLUMNS), XDG_CACHE_HOME=str(self.folder / ".cache"),
            XDG_STATE_HOME=str(self.folder / ".state"),
        )  # fmt: skip
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as errors, ThreadPoolExecutor(1) as threads:
            stdin.write(given)
            stdin.seek(0)
            shown = threads.submit(_read, reader)
            try:
                code = run_forked(arguments, self.at, surroundings, (stdin.fileno(), writer, errors.fileno()), 300)
            finally:
                os.close(writer)
            text = shown.result()
            errors.seek(0)
            said = errors.read()
        return code, text if code in (0, 1) else said


def _read(descriptor: int) -> bytes:
    """All that comes; a terminal whose other side was closed raises instead of ending."""
    parts = []
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except OSError:
            part = b""
        if not part:
            os.close(descriptor)
            return b"".join(parts)
        parts.append(part)


@dataclass(frozen=True)
class Example:
    """A command of a page.

    Attributes:
        shown: what stands below it; None where a page only names commands.
        start, end: where that is in the page's text.
    """

    line: str
    shown: str | None
    start: int
    end: int


def examples(text: str) -> list[Example]:
    """Every command of a page's console blocks, in order."""
    found = []
    for block in re.finditer(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        at = block.start(1)
        if "$ " not in block[1]:
            for line in block[1].splitlines(keepends=True):
                if line.strip():
                    found.append(Example(line.strip(), None, at, at))
                at += len(line)
            continue
        for part in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block[1], re.MULTILINE):
            found.append(Example(part[1], part[2], at + part.start(2), at + part.end(2)))
    return found


def forced(line: str) -> str:
    """The line with `--force`, for one that is an example among others and may find their outputs there."""
    line = re.sub(r"rebasin (align|interpolate|plane|merge|apply|repair|report)\b", r"\g<0> --force", line)
    return re.sub(r"rebasin arch derive\b", r"\g<0> --force", line)


def steady(text: str) -> str:
    """What a command printed, without what differs from run to run: times, memory and spaces at the end of lines."""
    text = re.sub(r"\b\d+(\.\d+)? (ms|s)\b", "… s", text)
    text = re.sub(r"\b\d+(\.\d+)? [kMG]?B\b", "… MB", text)
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def main() -> None:
    """Write what the commands print into the pages that show it."""
    for page in PAGES:
        text = page.read_text()
        if not any(example.shown is not None for example in examples(text)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            bench = Workbench(Path(folder))
            bench.fill()
            parts, last = [], 0
            for example in examples(text):
                code, shown = bench.run(example.line)
                if code:
                    sys.exit(f"{page.name}: {example.line} ended with {code}:\n{shown}")
                if example.shown is not None:
                    kept = "\n".join(line.rstrip() for line in shown.strip("\n").splitlines())
                    parts += [text[last : example.start], kept + "\n" if kept else ""]
                    last = example.end
            page.write_text("".join(parts) + text[last:])


if __name__ == "__main__":
    main()
