"""A sample of `make torture`: of every attack some attempts."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.small import ROOT, environment


def test_a_sample_of_attacks_finds_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--sample", "--json"],
        cwd=ROOT, env=environment(), capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout)
    assert {row["attack"].partition(":")[0] for row in rows} == {"hostile", "mutated", "fault"}
    assert sum(row["attempts"] for row in rows) >= 50
    assert [finding for row in rows for finding in row["findings"]] == []
