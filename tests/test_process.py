"""What happens around the import of torch, in a process that has not loaded it."""

from __future__ import annotations

import subprocess
import sys

from tests.small import environment

CODE = """
import gc
from rebasin_cli.process import load_torch
load_torch()
print(gc.isenabled(), gc.get_freeze_count() > 100_000, len(gc.get_objects()) < 10_000)
"""


def test_what_torch_loads_is_not_searched_for_garbage() -> None:
    found = subprocess.run([sys.executable, "-c", CODE], env=environment(), capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "True", "True"]
