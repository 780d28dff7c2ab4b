"""The notebooks of docs, run in this process: `python -m tests.notebooks` writes what their cells show.

A kernel (nbclient, ipykernel and what they need) would start a process and open ports for what `exec` does here.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"


def run_notebook(path: Path) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Run the code cells in their order, in the folder of the notebook; each with what it shows."""
    known: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    with _in_folder(path.parent):
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                shown.append((cell, _run_cell("".join(cell["source"]), known)))
    return shown


def _run_cell(source: str, known: dict[str, Any]) -> list[dict[str, Any]]:
    *before, last = ast.parse(source).body
    printed, value = io.StringIO(), None
    with redirect_stdout(printed):
        exec(compile(ast.Module(before, []), "<cell>", "exec"), known)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), known)
        else:
            exec(compile(ast.Module([last], []), "<cell>", "exec"), known)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(True)})
    if value is not None:
        outputs.append({"output_type": "display_data", "metadata": {}, "data": _forms(value)})
    return outputs


def _forms(value: Any) -> dict[str, Any]:
    """What a notebook keeps of a value: text, a table if it has one, and a picture of a figure."""
    forms: dict[str, Any] = {"text/plain": repr(value).splitlines(True)}
    table = value._repr_html_() if hasattr(value, "_repr_html_") else None
    if table is not None:
        forms["text/html"] = table.splitlines(True)
    if hasattr(value, "savefig"):
        picture = io.BytesIO()
        value.savefig(picture, format="png", dpi=60, metadata={"Software": "rebasin"})
        forms["image/png"] = base64.b64encode(picture.getvalue()).decode()
    return forms


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == "__main__":
    for path in sorted(DOCS.glob("*.ipynb")):
        notebook = json.loads(path.read_text())
        codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for number, (cell, (_, outputs)) in enumerate(zip(codes, run_notebook(path), strict=True), 1):
            cell["execution_count"], cell["outputs"] = number, outputs
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
        print(path.name, file=sys.stderr)
